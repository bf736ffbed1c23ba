/* Send queues: copies of what the program sends, until the kernel has them. */
#ifndef UDPRING_URING_NET_QUEUE_H
#define UDPRING_URING_NET_QUEUE_H
#include "state.h"

/* Appends a copy. 0 or -ENOMEM, with nothing appended. length > 0. */
int net_queue_add(struct udpring_net *net, struct net_connection *connection, const uint8_t *data, uint64_t length) UR_MUST_CHECK;
/* The first bytes that are not sent, all in one piece. Their number, at most 1 GiB. 0: none. */
uint32_t net_queue_head(const struct net_connection *connection, const uint8_t **data);
/* The kernel took `length` bytes of the head. */
void net_queue_advance(struct udpring_net *net, struct net_connection *connection, uint32_t length);
/* Drops all chunks, but not the head of a send in flight. */
void net_queue_drop(struct udpring_net *net, struct net_connection *connection);
/* Frees the list of free chunks. */
void net_queue_close(struct udpring_net *net);
#endif
