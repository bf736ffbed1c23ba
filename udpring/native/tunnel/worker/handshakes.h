/* Handshake messages have sockets of their own. A flood of them neither fills the receive buffer of data nor takes the
 * worker's time from data. The kernel sorts the messages (udp/socket_split.h). These sockets are read last in a pass, and at
 * a limited rate while data flows.
 *
 * Each message that costs more than a look-up takes a token. There are two buckets: one for these sockets, and a small one
 * for handshake messages within trains on the data sockets. So a flood of such trains takes no token from these sockets. */
#ifndef UDPRING_TUNNEL_WORKER_HANDSHAKES_H
#define UDPRING_TUNNEL_WORKER_HANDSHAKES_H
#include "state.h"

extern const struct udp_split handshakes_split;

/* Takes the sockets over. Both -1 is fine. On failure, too: close it. */
int handshakes_open(struct handshakes *handshakes, const int fd[2], bool gro, struct udpring_reason *why) UR_MUST_CHECK;
/* Also the sockets. Counters are kept. */
void handshakes_close(struct handshakes *handshakes);
void handshakes_see_counters(struct handshakes *handshakes);
void handshakes_see_drops(struct handshakes *handshakes);   /* reads how many messages the kernel has dropped so far */

/* Before the wait: polls the sockets that are empty. */
int handshakes_watch(struct worker *worker) UR_MUST_CHECK;
/* How long the worker may wait for their sake: 0 not at all, negative for ever. */
int64_t handshakes_patience(const struct worker *worker);
void handshakes_fired(struct handshakes *handshakes, uint32_t tokens);   /* of udp_rx_watched() */
/* Reads up to HANDSHAKE_BATCH datagrams, if the rate allows. 0 or a fatal -errno. */
int handshakes_pass(struct worker *worker);
#endif
