/* Ancillary data of UDP messages, both ways. Sources: cmsg(3), ip(7), ipv6(7), udp(7).
 * Nothing here keeps state; any thread may call it on its own memory. */
#ifndef UDPRING_UDP_CMSG_H
#define UDPRING_UDP_CMSG_H
#include "../base.h"   /* first: it asks for the GNU interfaces */

#include <sys/socket.h>

#include "abi.h"
#include "tx.h"

#define UDP_CMSG_BUILD_BYTES 120  /* UDP_SEGMENT 24 + TOS or TCLASS 24 + TTL or HOPLIMIT 24 + IPV6_PKTINFO 40, and a little room */

/* Reads pktinfo, TOS / TCLASS, the GRO segment size, the time and the kernel's drop count out of `control` into `packet`
 * (fields that are not there are left alone). Every cmsg_len is checked against what is left; a bad one ends the walk.
 * *drops is set when SO_RXQ_OVFL is there. `control` must be aligned as struct cmsghdr. */
void udp_cmsg_parse(const uint8_t *control, size_t length, struct udpring_packet *packet, uint32_t *drops);

/* Writes the control data of one send; `family` is that of the packet on the wire. The source comes last, so that it
 * can be dropped by shortening: *plain is the length without it. Returns the whole length, 0 when there is none. */
size_t udp_cmsg_build(uint8_t control[UDP_CMSG_BUILD_BYTES], const struct udp_tx_item *item, int family,
                      bool segment, size_t *plain);
#endif
