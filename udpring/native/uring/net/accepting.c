#include "accepting.h"

#include <sys/socket.h>
#include <unistd.h>

#include "connections.h"

void net_accepted(struct udpring_net *net, struct net_listener *listener, int32_t result)
{
    if (result >= 0) {
        struct net_connection *connection = net->stopping ? NULL : net_connection_take(net, result);
        if (connection) {
            net_notice(net, net_id(net, connection), UDPRING_NET_OPENED, (int32_t)(listener - net->listeners));
        } else {
            close(result);
            net->info.refused++;
        }
    } else if (result != -ECANCELED && result != -ECONNABORTED && result != -EINTR && result != -EAGAIN) {
        net->info.shortages++;
        listener->not_before = (int64_t)ur_clock_ns(CLOCK_MONOTONIC) + NET_PAUSE_NS;
    }
}

void net_accepting_done(struct udpring_net *net, const struct io_uring_cqe *cqe)
{
    uint32_t number = UR_SLOT(cqe->user_data);
    struct net_listener *listener = &net->listeners[number % UDPRING_NET_LISTENERS_MAX];
    if (!listener->armed || UR_GENERATION(cqe->user_data) != (listener->generation & 0xffffffu)) {
        net->info.stale++;
        if (cqe->res >= 0)
            close(cqe->res);
        return;
    }
    net_accepted(net, listener, cqe->res);
    if (cqe->flags & IORING_CQE_F_MORE)
        return;
    listener->armed = listener->cancelled = false;
    listener->generation++;
    if (listener->removed)
        listener->used = listener->removed = false;
}

static bool arm(struct udpring_net *net, struct net_listener *listener)
{
    struct io_uring_sqe *sqe = ur_sqe_or_submit(&net->ring);
    if (!sqe)
        return false;
    listener->armed = true;
    listener->many = net->free_count > NET_ONE_BY_ONE;
    sqe->opcode = IORING_OP_ACCEPT;
    sqe->fd = listener->fd;
    sqe->ioprio = listener->many ? IORING_ACCEPT_MULTISHOT : 0;
    sqe->accept_flags = SOCK_CLOEXEC;
    sqe->user_data = UR_USER_DATA(UR_KIND_NET_ACCEPT, listener->generation, listener - net->listeners);
    return true;
}

static bool cancel(struct udpring_net *net, struct net_listener *listener)
{
    struct io_uring_sqe *sqe = ur_sqe_or_submit(&net->ring);
    if (!sqe)
        return false;
    uint64_t accept = UR_USER_DATA(UR_KIND_NET_ACCEPT, listener->generation, listener - net->listeners);
    listener->cancelled = true;
    sqe->opcode = IORING_OP_ASYNC_CANCEL;
    sqe->fd = -1;
    sqe->addr = accept;
    sqe->user_data = UR_USER_DATA(UR_KIND_CANCEL, listener->generation, listener - net->listeners);
    return true;
}

int64_t net_accepting_advance(struct udpring_net *net)
{
    int64_t now = 0, wait = -1;
    for (uint32_t i = 0; i < net->listeners_top; i++) {
        struct net_listener *listener = &net->listeners[i];
        if (!listener->used)
            continue;
        bool wanted = !listener->removed && !net->stopping && net->free_count;
        if (listener->armed) {
            bool fits = wanted && (!listener->many || net->free_count > NET_ONE_BY_ONE);
            if (!fits && !listener->cancelled && !cancel(net, listener))
                wait = 1000000;
            continue;
        }
        if (!wanted)
            continue;
        if (listener->not_before) {
            now = now ? now : (int64_t)ur_clock_ns(CLOCK_MONOTONIC);
            int64_t left = listener->not_before - now;
            if (left > 0) {
                wait = wait < 0 || left < wait ? left : wait;
                continue;
            }
            listener->not_before = 0;
        }
        if (!arm(net, listener))
            wait = 1000000;
    }
    return wait;
}

bool net_accepting_armed(const struct udpring_net *net)
{
    for (uint32_t i = 0; i < net->listeners_top; i++)
        if (net->listeners[i].armed)
            return true;
    return false;
}

bool net_accepting_pauses(const struct udpring_net *net)
{
    for (uint32_t i = 0; i < net->listeners_top; i++)
        if (net->listeners[i].used && net->listeners[i].not_before)
            return true;
    return false;
}
