/* The places of connections, and the notices of a turn. */
#ifndef UDPRING_URING_NET_CONNECTIONS_H
#define UDPRING_URING_NET_CONNECTIONS_H
#include "state.h"

int net_connections_open(struct udpring_net *net) UR_MUST_CHECK;   /* 0 or -ENOMEM */
void net_connections_close(struct udpring_net *net);               /* frees the table. The connections are closed */
/* A place for a connected socket, marked. NULL: all are taken, or it would have no memory. */
struct net_connection *net_connection_take(struct udpring_net *net, int fd);
/* Marks the connections that wait for a free buffer, if there is one. Says to the program whether some still wait, and ends the turn
 * when they begin to: from then on the program wakes us for each buffer that it releases. */
void net_feed_starved(struct udpring_net *net);
/* The connection with this id, or NULL. */
struct net_connection *net_connection_of(const struct udpring_net *net, uint64_t id);
/* The next turn advances it. */
void net_mark(struct udpring_net *net, struct net_connection *connection);
/* Ends it with an error. */
void net_fail(struct udpring_net *net, struct net_connection *connection, int error);
/* The peer ended. */
void net_ended(struct udpring_net *net, struct net_connection *connection);
/* Begins to close an `ending` connection once the program had its last data for a turn. */
void net_close_ending(struct udpring_net *net, struct net_connection *connection);
/* Bytes have left the queue, or had left it in a turn without room for the notice (net_drained()). */
void net_sent(struct udpring_net *net, struct net_connection *connection);
/* Closes the socket of a dead connection that has no operation under way, and says so. The place is free from the next turn on. */
void net_connection_finish(struct udpring_net *net, struct net_connection *connection);
/* At the start of a turn: frees the places of connections that were closed in the last one. */
void net_retire(struct udpring_net *net);
void net_notice(struct udpring_net *net, uint64_t id, enum udpring_net_notice kind, int32_t value);
/* Whether a turn has room for the notices of one more connection. */
static inline bool net_notice_room(const struct udpring_net *net)
{
    return net->events->notice_rows + 4 <= UDPRING_NET_NOTICES_MAX;
}
/* Whether its queue was full and is low again, and the program does not know. */
static inline bool net_drained(const struct udpring_net *net, const struct net_connection *connection)
{
    return connection->full && connection->queued <= net->options.low;
}
#endif
