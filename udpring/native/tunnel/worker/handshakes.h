/* Sockets of their own for handshake messages, so that a flood of them neither fills the buffer that data waits in nor takes
 * the worker's time from data: the kernel sorts (udp/socket_split.h), we read last, and while data flows so many a second.
 *
 * Each message that costs more than a look-up takes a token, wherever it came from. Two buckets: the sockets of their own
 * have one, and what comes in trains of data (a peer's, or an attacker's that begin with data) has a small one beside it,
 * so that such trains take nothing from those who knock where they should. */
#ifndef UDPRING_TUNNEL_WORKER_HANDSHAKES_H
#define UDPRING_TUNNEL_WORKER_HANDSHAKES_H
#include "state.h"

extern const struct udp_split handshakes_split;

/* Takes the sockets over; both -1 is fine. On failure, too: close it. */
int handshakes_open(struct handshakes *handshakes, const int fd[2], bool gro, struct udpring_reason *why) UR_MUST_CHECK;
/* Also the sockets. Counters are kept. */
void handshakes_close(struct handshakes *handshakes);
void handshakes_see_counters(struct handshakes *handshakes);
void handshakes_see_drops(struct handshakes *handshakes);   /* what the kernel has shed up to now */

/* Before the wait: watches what is empty. */
int handshakes_watch(struct worker *worker) UR_MUST_CHECK;
/* How long the worker may wait for their sake: 0 not at all, negative for ever. */
int64_t handshakes_patience(const struct worker *worker);
void handshakes_fired(struct handshakes *handshakes, uint32_t tokens);   /* of udp_rx_watched() */
/* Reads up to HANDSHAKE_BATCH datagrams, if the rate allows. 0 or a fatal -errno. */
int handshakes_pass(struct worker *worker);
#endif
