/* Ancillary data of UDP messages, both ways. Sources: cmsg(3), ip(7), ipv6(7), udp(7).
 * Nothing here keeps state. Any thread may call it on its own memory. */
#ifndef UDPRING_UDP_CMSG_H
#define UDPRING_UDP_CMSG_H
#include "../base.h"   /* include first: it defines _GNU_SOURCE */

#include <sys/socket.h>

#include "abi.h"
#include "tx.h"

#define UDP_CMSG_BUILD_BYTES 120  /* UDP_SEGMENT 24 + TOS or TCLASS 24 + TTL or HOPLIMIT 24 + IPV6_PKTINFO 40 + spare room */

/* Reads pktinfo, TOS / TCLASS, the GRO segment size and the timestamp from `control` into `packet`. Fields without a control
 * message stay unchanged. Every cmsg_len is checked against the remaining length. An invalid one ends the parsing.
 * *drops is set if SO_RXQ_OVFL is present. `control` must be aligned as struct cmsghdr. */
void udp_cmsg_parse(const uint8_t *control, size_t length, struct udpring_packet *packet, uint32_t *drops);

/* Writes the control data of one send. `family` is that of the packet on the wire. The source comes last, so that a shorter
 * length drops it: *plain is the length without it. Returns the whole length, 0 if there is no control data. */
size_t udp_cmsg_build(uint8_t control[UDP_CMSG_BUILD_BYTES], const struct udp_tx_item *item, int family,
                      bool segment, size_t *plain);
#endif
