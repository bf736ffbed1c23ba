/* The connections on io_uring. */
#ifndef UDPRING_URING_NET_RING_H
#define UDPRING_URING_NET_RING_H
#include "state.h"

/* Opens the ring and tries what it needs: multishot receives into a buffer ring (Linux 6.0). 0, or -errno with the reason. */
int net_ring_open(struct udpring_net *net, struct udpring_reason *why) UR_MUST_CHECK;
/* Waits, at most timeout_ns, and fills the events. 0 or -errno. */
int net_ring_turn(struct udpring_net *net, int64_t timeout_ns) UR_MUST_CHECK;
/* Ends all operations. Returns how many did not end, or -errno. */
int net_ring_stop(struct udpring_net *net);
#endif
