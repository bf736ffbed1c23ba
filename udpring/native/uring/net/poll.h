/* The connections on epoll(7), where io_uring is denied. */
#ifndef UDPRING_URING_NET_POLL_H
#define UDPRING_URING_NET_POLL_H
#include "state.h"

int net_poll_open(struct udpring_net *net, struct udpring_reason *why) UR_MUST_CHECK;   /* 0 or -errno */
/* As net_ring_turn(). */
int net_poll_turn(struct udpring_net *net, int64_t timeout_ns) UR_MUST_CHECK;
/* The listener is watched no more. */
void net_poll_unlisten(struct udpring_net *net, struct net_listener *listener);
#endif
