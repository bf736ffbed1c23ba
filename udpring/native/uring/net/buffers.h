/* The receive buffers. A buffer is with the kernel (or free, on epoll), lent to the program until the next turn, or claimed by it. */
#ifndef UDPRING_URING_NET_BUFFERS_H
#define UDPRING_URING_NET_BUFFERS_H
#include "state.h"

/* 0 or -errno, with the reason. On io_uring the ring must be open. */
int net_buffers_open(struct udpring_net *net, struct udpring_reason *why) UR_MUST_CHECK;
/* After the ring has stopped. The memory is the caller's. */
void net_buffers_close(struct udpring_net *net);
/* The kernel filled the buffer `id` and perhaps those after it, with `length` bytes in all. The buffers are lent. With `shown` the
 * rows of the turn get them. */
void net_buffers_lend(struct udpring_net *net, uint64_t connection, uint16_t id, uint32_t length, bool shown);
/* The lent buffers may be filled again. */
void net_buffers_give_back(struct udpring_net *net);
/* epoll: a free buffer, lent if something is received into it. -ENOBUFS. */
int32_t net_buffers_peek(const struct udpring_net *net);
int net_buffers_claim(struct udpring_net *net, uint64_t start, uint32_t length);
int net_buffers_release(struct udpring_net *net, uint64_t start, uint32_t length);
#endif
