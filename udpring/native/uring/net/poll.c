#include "poll.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "accepting.h"
#include "buffers.h"
#include "connections.h"
#include "queue.h"

#define EVENTS_MAX 256
#define ACCEPTS_MAX 64               /* of one listener in a round */
/* epoll_data of what is no connection. An id of a connection is below. */
#define LISTENER (1ull << 63)
#define WAKE UINT64_MAX
#define PAUSE (UINT64_MAX - 1)

static int watch(struct udpring_net *net, int fd, uint32_t events, uint64_t data, bool known)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    int what = !known ? EPOLL_CTL_ADD : events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL;
    return epoll_ctl(net->poll_fd, what, fd, &event) ? -errno : 0;
}

static void send_queue(struct udpring_net *net, struct net_connection *connection)
{
    const uint8_t *data = NULL;
    while (!connection->blocked && connection->head) {
        uint32_t length = net_queue_head(connection, &data);
        ssize_t taken = send(connection->fd, data, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        net->info.sends++;
        if (taken < 0 && errno == EINTR)
            continue;
        if (taken < 0 && errno != EAGAIN) {
            net_fail(net, connection, errno);
            break;
        }
        connection->blocked = taken < (ssize_t)length;
        net->info.short_sends += connection->blocked;
        if (taken > 0)
            net_queue_advance(net, connection, (uint32_t)taken);
    }
    net_sent(net, connection);
}

static void advance(struct udpring_net *net, struct net_connection *connection)
{
    if (ur_unlikely(connection->ending))
        net_close_ending(net, connection);
    if (ur_unlikely(net_drained(net, connection)))
        net_sent(net, connection);
    if (!connection->dead && connection->head && !connection->blocked)
        send_queue(net, connection);
    if (!connection->head) {
        if (connection->shutdown && !connection->shut && !connection->dead) {
            connection->shut = true;
            shutdown(connection->fd, SHUT_WR);
        }
        connection->dead |= connection->closing;
    }
    if (connection->dead) {
        if (net_notice_room(net))
            net_connection_finish(net, connection);
        else
            net_mark(net, connection);
        return;
    }
    uint32_t interest = (net_reads(connection) && !connection->starved ? EPOLLIN : 0) | (connection->head ? EPOLLOUT : 0);
    if (interest == connection->interest)
        return;
    int code = watch(net, connection->fd, interest, net_id(net, connection), connection->interest != 0);
    connection->interest = interest;
    if (code)
        net_fail(net, connection, -code);
}

static void advance_marked(struct udpring_net *net)
{
    uint32_t count = net->marked_count;
    for (uint32_t i = 0; i < count; i++) {
        struct net_connection *connection = &net->connections[net->marked[i]];
        connection->marked = false;
        if (connection->fd >= 0)
            advance(net, connection);
    }
    net->marked_count -= count;
    memmove(net->marked, net->marked + count, net->marked_count * sizeof(*net->marked));
}

static int64_t advance_listeners(struct udpring_net *net)
{
    int64_t now = 0, wait = -1;
    for (uint32_t i = 0; i < net->listeners_top; i++) {
        struct net_listener *listener = &net->listeners[i];
        if (!listener->used)
            continue;
        bool wanted = net->free_count;
        if (wanted && listener->not_before) {
            now = now ? now : (int64_t)ur_clock_ns(CLOCK_MONOTONIC);
            int64_t left = listener->not_before - now;
            wanted = left <= 0;
            if (!wanted)
                wait = wait < 0 || left < wait ? left : wait;
            else
                listener->not_before = 0;
        }
        if (wanted == listener->armed)
            continue;
        int code = watch(net, listener->fd, wanted ? EPOLLIN : 0, LISTENER | i, listener->armed);
        listener->armed = wanted && !code;
        if (wanted && code) {
            net_accepted(net, listener, code);   /* as when accept(2) fails: a pause, and the next try */
            wait = wait < 0 || NET_PAUSE_NS < wait ? NET_PAUSE_NS : wait;
        }
    }
    if (wait > 0) {
        const struct itimerspec end = {.it_value = {.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000}};
        timerfd_settime(net->timer_fd, 0, &end, NULL);   /* for udpring_net_fileno() */
    }
    return wait;
}

void net_poll_unlisten(struct udpring_net *net, struct net_listener *listener)
{
    watch(net, listener->fd, 0, 0, true);
    listener->used = listener->armed = listener->removed = false;
}

static void accept_ready(struct udpring_net *net, struct net_listener *listener)
{
    for (int i = 0; i < ACCEPTS_MAX && listener->armed && net->free_count && net_notice_room(net); i++) {
        int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        int error = errno;
        if (fd < 0 && error == EAGAIN)
            return;
        net_accepted(net, listener, fd < 0 ? -error : fd);
        if (fd < 0 && listener->not_before)
            return;
    }
}

static void receive(struct udpring_net *net, struct net_connection *connection)
{
    int32_t buffer = net_buffers_peek(net);
    if (buffer < 0) {
        net->info.starved++;
        if (!net->buffers.lent_count) {   /* all are claimed. Otherwise the next turn finds it readable again */
            connection->starved = net->buffers.waiting = true;
            net_mark(net, connection);
        }
        return;
    }
    ssize_t length = recv(connection->fd, net->buffers.memory + (size_t)buffer * net->buffers.bytes, net->buffers.bytes, MSG_DONTWAIT);
    if (length > 0)
        net_buffers_lend(net, net_id(net, connection), (uint16_t)buffer, (uint32_t)length, true);
    else if (length == 0)
        net_ended(net, connection);
    else if (errno != EAGAIN && errno != EINTR)
        net_fail(net, connection, errno);
}

static void ready(struct udpring_net *net, const struct epoll_event *event)
{
    if (event->data.u64 == WAKE) {
        uint64_t count;
        net->events->woken |= read(net->wake_fd, &count, sizeof(count)) > 0;
        return;
    }
    if (event->data.u64 == PAUSE) {
        uint64_t count;
        ssize_t length = read(net->timer_fd, &count, sizeof(count));
        (void)length;
        return;
    }
    if (event->data.u64 & LISTENER) {
        accept_ready(net, &net->listeners[event->data.u64 % UDPRING_NET_LISTENERS_MAX]);
        return;
    }
    struct net_connection *connection = net_connection_of(net, event->data.u64);
    if (!connection)
        return;
    if (connection->blocked && event->events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
        connection->blocked = false;
        net_mark(net, connection);
    }
    if (net_reads(connection) && event->events & (EPOLLIN | EPOLLERR | EPOLLHUP))
        receive(net, connection);
}

static bool has_events(const struct udpring_net *net)
{
    return net->events->rows || net->events->notice_rows || net->events->woken;
}

/* epoll_wait(2) takes milliseconds. Rounded up, so that it does not return early. */
static int milliseconds(int64_t ns)
{
    int64_t ms = ns < 0 ? -1 : (ns + 999999) / 1000000;
    return ms > INT32_MAX ? INT32_MAX : (int)ms;
}

static int go_round(struct udpring_net *net, int64_t left)
{
    struct epoll_event events[EVENTS_MAX] UR_UNINITIALIZED;
    net_feed_starved(net);
    advance_marked(net);
    int64_t limit = advance_listeners(net);
    if (has_events(net) || net->marked_count)
        left = 0;
    if (limit >= 0 && (left < 0 || limit < left))
        left = limit;
    net->info.waits++;
    int count = epoll_wait(net->poll_fd, events, EVENTS_MAX, milliseconds(left));
    int code = count < 0 ? -errno : 0;
    for (int i = 0; i < count && net_notice_room(net); i++)
        ready(net, &events[i]);
    return code;
}

int net_poll_turn(struct udpring_net *net, int64_t timeout_ns)
{
    int64_t deadline = timeout_ns > 0 ? (int64_t)ur_clock_ns(CLOCK_MONOTONIC) + timeout_ns : 0, left = timeout_ns;
    unsigned rounds = 0;
    for (;;) {
        int code = go_round(net, left);
        if (has_events(net))
            break;
        if (code)
            return code;
        if (timeout_ns == 0 && (!net->marked_count || ++rounds == NET_ROUNDS))
            break;
        if (timeout_ns > 0 && (left = deadline - (int64_t)ur_clock_ns(CLOCK_MONOTONIC)) <= 0)
            break;
    }
    net->events->unfinished = net->marked_count != 0;
    return 0;
}

int net_poll_open(struct udpring_net *net, struct udpring_reason *why)
{
    net->poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (net->poll_fd < 0) {
        int error = errno;
        return ur_fail(why, -error, "epoll_create1: %s", strerror(error));
    }
    net->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (net->timer_fd < 0) {
        int error = errno;
        return ur_fail(why, -error, "timerfd_create: %s", strerror(error));
    }
    int code = watch(net, net->wake_fd, EPOLLIN, WAKE, false);
    if (!code)
        code = watch(net, net->timer_fd, EPOLLIN, PAUSE, false);
    if (code)
        return ur_fail(why, code, "epoll_ctl: %s", strerror(-code));
    return net_buffers_open(net, why);
}
