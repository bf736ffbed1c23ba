/* Accepting on io_uring. An accept stays armed (multishot) while many places are free. With few, connections are accepted one by one,
 * so that the others wait in the kernel's backlog. */
#ifndef UDPRING_URING_NET_ACCEPTING_H
#define UDPRING_URING_NET_ACCEPTING_H
#include "state.h"

/* Arms and cancels as the listeners need it. Returns the ns until it has to be called again, after a shortage. -1: no limit. */
int64_t net_accepting_advance(struct udpring_net *net);
void net_accepting_done(struct udpring_net *net, const struct io_uring_cqe *cqe);
/* A connection was accepted, or accept failed with -result. Both backends. */
void net_accepted(struct udpring_net *net, struct net_listener *listener, int32_t result);
bool net_accepting_armed(const struct udpring_net *net);
/* Whether a listener waits for the end of a shortage. */
bool net_accepting_pauses(const struct udpring_net *net);
#endif
