#include "connections.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "queue.h"

#define NONE UINT32_MAX

int net_connections_open(struct udpring_net *net)
{
    uint32_t count = net->options.connections;
    net->connections = calloc(count, sizeof(*net->connections));
    net->marked = calloc(2 * (size_t)count, sizeof(*net->marked));
    net->silent = calloc(count, sizeof(*net->silent));
    net->retired = calloc(count, sizeof(*net->retired));
    net->free_head = NONE;
    net->free_count = count;
    return net->connections && net->marked && net->silent && net->retired ? 0 : -ENOMEM;
}

void net_connections_close(struct udpring_net *net)
{
    free(net->connections);
    free(net->marked);
    free(net->silent);
    free(net->retired);
    net->connections = NULL;
    net->marked = net->silent = net->retired = NULL;
}

void net_notice(struct udpring_net *net, uint64_t id, enum udpring_net_notice kind, int32_t value)
{
    struct udpring_net_events *events = net->events;
    if (events->notice_rows >= UDPRING_NET_NOTICES_MAX)
        return;   /* callers look for room first */
    events->notice_ids[events->notice_rows] = id;
    events->notices[events->notice_rows] = kind;
    events->values[events->notice_rows] = value;
    events->notice_rows++;
}

void net_mark(struct udpring_net *net, struct net_connection *connection)
{
    if (connection->marked)
        return;
    connection->marked = true;
    net->marked[net->marked_count++] = (uint32_t)(connection - net->connections);
}

struct net_connection *net_connection_take(struct udpring_net *net, int fd)
{
    uint32_t place = net->free_head;
    if (!net->free_count)
        return NULL;
    if (place != NONE)
        net->free_head = net->connections[place].next_free;
    else
        place = net->top++;
    net->free_count--;
    struct net_connection *connection = &net->connections[place];
    uint32_t generation = connection->generation ? connection->generation : 1;
    bool marked = connection->marked;
    *connection = (struct net_connection){.fd = fd, .generation = generation, .marked = marked};
    net_mark(net, connection);
    net->info.opened++;
    net->info.connections++;
    return connection;
}

struct net_connection *net_connection_of(const struct udpring_net *net, uint64_t id)
{
    uint32_t place = (uint32_t)id;
    if (place >= net->top)
        return NULL;
    struct net_connection *connection = &net->connections[place];
    return connection->generation == id >> 32 && connection->fd >= 0 ? connection : NULL;
}

void net_feed_starved(struct udpring_net *net)
{
    struct udpring_net_events *events = net->events;
    if (net->buffers.waiting && net->buffers.out < net->buffers.count) {
        net->buffers.waiting = false;
        for (uint32_t i = 0; i < net->top; i++)
            if (net->connections[i].starved) {
                net->connections[i].starved = false;
                net_mark(net, &net->connections[i]);
            }
    }
    if (ur_unlikely(net->buffers.waiting && !events->starving))
        events->woken = 1;
    events->starving = net->buffers.waiting;
}

void net_fail(struct udpring_net *net, struct net_connection *connection, int error)
{
    if (!connection->dead)
        connection->error = error;
    connection->dead = true;
    net_mark(net, connection);
}

void net_ended(struct udpring_net *net, struct net_connection *connection)
{
    connection->ended = true;
    if (!connection->closing && !connection->dead) {
        net_notice(net, net_id(net, connection), UDPRING_NET_ENDED, 0);
        connection->ending = !net->options.half_open;
        connection->ended_turn = net->turns;
    }
    net_mark(net, connection);
}

void net_close_ending(struct udpring_net *net, struct net_connection *connection)
{
    if (connection->ended_turn == net->turns) {
        net_mark(net, connection);
        return;
    }
    connection->ending = false;
    connection->closing = true;
}

void net_sent(struct udpring_net *net, struct net_connection *connection)
{
    if (net_drained(net, connection)) {
        net_mark(net, connection);
        if (!net_notice_room(net))
            return;   /* the next turn has room, and calls again */
        connection->full = false;
        if (!connection->closing && !connection->dead)
            net_notice(net, net_id(net, connection), UDPRING_NET_DRAINED, 0);
    }
    if (connection->head || connection->closing || connection->shutdown || connection->dead)
        net_mark(net, connection);
}

void net_connection_finish(struct udpring_net *net, struct net_connection *connection)
{
    net_queue_drop(net, connection);
    net->info.failed += connection->error != 0;
    if (connection->error || connection->reset) {
        /* Otherwise the kernel would go on sending what it has. */
        struct linger now = {.l_onoff = 1, .l_linger = 0};
        setsockopt(connection->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    }
    close(connection->fd);
    connection->fd = -1;
    net->info.closed++;
    net->info.connections--;
    net->retired[net->retired_count++] = (uint32_t)(connection - net->connections);
    net_notice(net, net_id(net, connection), UDPRING_NET_CLOSED, connection->error);
}

void net_retire(struct udpring_net *net)
{
    for (uint32_t i = 0; i < net->retired_count; i++) {
        struct net_connection *connection = &net->connections[net->retired[i]];
        connection->generation = connection->generation + 1 < UINT32_MAX / 2 ? connection->generation + 1 : 1;
        connection->next_free = net->free_head;
        net->free_head = net->retired[i];
        net->free_count++;
    }
    net->retired_count = 0;
}
