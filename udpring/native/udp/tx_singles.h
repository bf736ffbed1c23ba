/* Datagrams that cannot be joined to trains, sent without the queues by one sendmmsg(2). */
#ifndef UDPRING_UDP_TX_SINGLES_H
#define UDPRING_UDP_TX_SINGLES_H
#include "../base.h"   /* include first: it defines _GNU_SOURCE */

#include <netinet/in.h>
#include <sys/socket.h>

#include "tx.h"

#define UDP_TX_SINGLES 64

/* Owner: the caller. Thread: one at a time. Nothing to free. */
struct udp_tx_singles {
    uint32_t count;
    int32_t result[UDP_TX_SINGLES];   /* of those that ended: 0 or -errno */
    struct mmsghdr header[UDP_TX_SINGLES];
    struct iovec piece[UDP_TX_SINGLES];
    union udp_tx_name { struct sockaddr_in in; struct sockaddr_in6 in6; uint64_t aligned; } name[UDP_TX_SINGLES];
};
/* Adds one datagram. `to` NULL: to the connected peer. False: there is no room, or it must be pushed instead. */
bool udp_tx_singles_add(const struct udp_tx *tx, struct udp_tx_singles *singles, const uint8_t *data, uint64_t length,
                        const struct udpring_address *to);
/* Sends all on socket 0 without waiting. Any thread may call it, as udp_tx_send_direct(). Returns how many have a result. If that is
 * fewer than `count`, the next one must be pushed. */
uint32_t udp_tx_send_singles(const struct udp_tx *tx, struct udp_tx_singles *singles, struct udp_tx_direct *direct);
#endif
