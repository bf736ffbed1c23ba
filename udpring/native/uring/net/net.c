/* The interface of net/abi.h. */
#include "../../base.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../graveyard.h"
#include "../thread.h"

#include "abi.h"
#include "accepting.h"
#include "buffers.h"
#include "connections.h"
#include "poll.h"
#include "queue.h"
#include "ring.h"

static int usable(const struct udpring_net *net)
{
    if (ur_unlikely(!net || !net->open))
        return -EBADF;
    return ur_unlikely(net->owner != ur_thread_number() || net->forks != ur_fork_count()) ? -EXDEV : 0;
}

static int check_options(const struct udpring_net_options *options, struct udpring_reason *why)
{
    if (!options->connections || options->connections > UDPRING_NET_CONNECTIONS_MAX)
        return ur_fail(why, -EINVAL, "%u connections: 1 to %u", options->connections, UDPRING_NET_CONNECTIONS_MAX);
    if (!options->buffers || options->buffers > UDPRING_NET_BUFFERS_MAX || options->buffers & (options->buffers - 1))
        return ur_fail(why, -EINVAL, "%u buffers: a power of two, at most %u", options->buffers, UDPRING_NET_BUFFERS_MAX);
    if (!options->buffer_bytes || options->buffer_bytes > UDPRING_NET_BUFFER_BYTES_MAX)
        return ur_fail(why, -EINVAL, "buffers of %u bytes: 1 to %u", options->buffer_bytes, UDPRING_NET_BUFFER_BYTES_MAX);
    if (options->low > options->high || options->high > options->queue_bytes || options->queue_bytes > INT32_MAX)
        return ur_fail(why, -EINVAL, "low %u, high %u, queue_bytes %llu: each at most the next, and at most %d", options->low,
                       options->high, (unsigned long long)options->queue_bytes, INT32_MAX);
    return 0;
}

int32_t udpring_net_open(struct udpring_net **out, const struct udpring_net_options *options, struct udpring_net_events *events,
                         struct udpring_reason *why)
{
    *out = NULL;
    int code = check_options(options, why);
    if (code)
        return code;
    code = ur_fork_watch();
    struct udpring_net *net = code ? NULL : calloc(1, sizeof(*net));
    if (!net)
        return ur_fail(why, -ENOMEM, "no memory");
    net->options = *options;
    net->events = events;
    net->poll_fd = net->event_fd = net->timer_fd = -1;
    net->owner = ur_thread_number();
    net->owner_tid = gettid();
    net->forks = ur_fork_count();
    net->open = true;
    net->wake_fd = eventfd(0, EFD_CLOEXEC | (options->readiness ? EFD_NONBLOCK : 0));
    if (net->wake_fd < 0)
        code = ur_fail(why, -errno, "eventfd: %s", strerror(errno));
    else if (net_connections_open(net))
        code = ur_fail(why, -ENOMEM, "%u connections: no memory", options->connections);
    else
        code = options->readiness ? net_poll_open(net, why) : net_ring_open(net, why);
    if (code) {
        udpring_net_close(net);
        udpring_net_free(net);
        return code;
    }
    *out = net;
    return 0;
}

static void close_connections(struct udpring_net *net)
{
    for (uint32_t i = 0; i < net->top; i++) {
        struct net_connection *connection = &net->connections[i];
        if (connection->fd < 0)
            continue;
        /* An armed send that did not end keeps its memory. */
        if (connection->sending == NET_ARMED && net->ring.undrained)
            ur_graveyard_leak(connection->head, connection->head->room);
        else
            connection->sending = NET_IDLE;
        net_queue_drop(net, connection);
        close(connection->fd);
        connection->fd = -1;
    }
    net->info.connections = 0;
}

static bool owner_lives(const struct udpring_net *net)
{
    return syscall(SYS_tgkill, getpid(), net->owner_tid, 0) == 0 || errno != ESRCH;
}

int32_t udpring_net_close(struct udpring_net *net)
{
    if (!net->open)
        return 0;
    int left = 0;
    bool child = net->forks != ur_fork_count();
    if (net->poll_fd >= 0 && !child && net->owner != ur_thread_number() && owner_lives(net))
        return -EXDEV;
    if (net->poll_fd < 0 && net->ring.state == UR_RING_LIVE && !child) {
        /* From a thread other than the owner it returns -EXDEV. Then the ring closes only if the owner has ended. */
        net_ring_stop(net);
        left = ur_ring_close(&net->ring);
        if (left == -EXDEV)
            return left;
    } else if (net->ring.state == UR_RING_LIVE) {
        ur_ring_close(&net->ring);
    }
    net->open = false;
    close_connections(net);
    net_buffers_close(net);
    net_queue_close(net);
    if (net->poll_fd >= 0)
        close(net->poll_fd);
    if (net->event_fd >= 0)
        close(net->event_fd);
    if (net->timer_fd >= 0)
        close(net->timer_fd);
    net->poll_fd = net->event_fd = net->timer_fd = -1;
    return left > 0 ? left : 0;
}

void udpring_net_free(struct udpring_net *net)
{
    if (!net)
        return;
    if (net->open) {
        ur_graveyard_leak(net, sizeof(*net));
        return;
    }
    net_connections_close(net);
    if (net->wake_fd >= 0)
        close(net->wake_fd);
    if (net->ring.undrained)   /* the kernel may still write the word that it reads from wake_fd */
        ur_graveyard_leak(net, sizeof(*net));
    else
        free(net);
}

int32_t udpring_net_info(const struct udpring_net *net, struct udpring_net_info *out)
{
    *out = net->info;
    out->lent = net->buffers.lent_count;
    out->claimed = net->buffers.claimed_count;
    return 0;
}

int32_t udpring_net_fileno(struct udpring_net *net)
{
    int code = usable(net);
    if (code)
        return code;
    if (net->poll_fd >= 0)
        return net->poll_fd;
    if (net->event_fd >= 0)
        return net->event_fd;
    int fd = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC);   /* readable: the first turn finds what came before */
    if (fd < 0)
        return -errno;
    code = ur_ring_register(&net->ring, IORING_REGISTER_EVENTFD, &fd, 1);
    if (code < 0) {
        close(fd);
        return code;
    }
    net->event_fd = fd;
    return fd;
}

void udpring_net_wake(struct udpring_net *net)
{
    uint64_t one = 1;
    ssize_t length = write(net->wake_fd, &one, sizeof(one));
    (void)length;
}

/* io_uring does not wait on a descriptor with O_NONBLOCK, and epoll needs it. */
static int set_blocking(const struct udpring_net *net, int fd)
{
    int flags = fcntl(fd, F_GETFL);
    int wanted = net->poll_fd >= 0 ? flags | O_NONBLOCK : flags & ~O_NONBLOCK;
    if (flags < 0 || (wanted != flags && fcntl(fd, F_SETFL, wanted)))
        return -errno;
    return 0;
}

int32_t udpring_net_listen(struct udpring_net *net, int32_t fd)
{
    int code = usable(net);
    if (code)
        return code;
    uint32_t i = 0;
    while (i < UDPRING_NET_LISTENERS_MAX && net->listeners[i].used)
        i++;
    if (i == UDPRING_NET_LISTENERS_MAX)
        return -ENOSPC;
    code = set_blocking(net, fd);
    if (code)
        return code;
    struct net_listener *listener = &net->listeners[i];
    *listener = (struct net_listener){.fd = fd, .used = true, .generation = listener->generation + 1};
    if (i >= net->listeners_top)
        net->listeners_top = i + 1;
    return (int32_t)i;
}

int32_t udpring_net_unlisten(struct udpring_net *net, uint32_t number)
{
    int code = usable(net);
    if (code)
        return code;
    struct net_listener *listener = &net->listeners[number % UDPRING_NET_LISTENERS_MAX];
    if (number >= UDPRING_NET_LISTENERS_MAX || !listener->used || listener->removed)
        return -ENOENT;
    if (!listener->armed) {
        listener->used = false;
        return 0;
    }
    listener->removed = true;
    if (net->poll_fd >= 0) {
        net_poll_unlisten(net, listener);
        return 0;
    }
    /* Queued entries name the descriptor, so they go before the caller closes it. The completions come with the next turn. */
    net_accepting_advance(net);
    code = ur_submit_and_wait(&net->ring, 0, 0);
    return code && code != -ETIME && code != -EINTR && code != -EAGAIN && code != -EBUSY ? code : 0;
}

int64_t udpring_net_add(struct udpring_net *net, int32_t fd)
{
    int code = usable(net);
    if (code)
        return code;
    if (!net->free_count)
        return -ENOSPC;   /* with the socket as it was */
    code = set_blocking(net, fd);
    if (code)
        return code;
    struct net_connection *connection = net_connection_take(net, fd);
    return connection ? (int64_t)net_id(net, connection) : -ENOSPC;
}

int32_t udpring_net_turn(struct udpring_net *net, int64_t timeout_ns)
{
    int code = usable(net);
    if (ur_unlikely(code))
        return code;
    struct udpring_net_events *events = net->events;
    net_buffers_give_back(net);
    net_retire(net);
    net->turns++;
    events->rows = events->notice_rows = events->woken = 0;
    code = net->poll_fd >= 0 ? net_poll_turn(net, timeout_ns) : net_ring_turn(net, timeout_ns);
    return code ? code : (int32_t)(events->rows + events->notice_rows);
}

static int64_t append(struct udpring_net *net, uint64_t id, const uint8_t *data, uint64_t length)
{
    struct net_connection *connection = net_connection_of(net, id);
    if (ur_unlikely(!connection || connection->closing || connection->shutdown || connection->dead)) {
        net->info.unsent++;
        return connection ? -EPIPE : -ENOENT;
    }
    if (ur_unlikely(length > net->options.queue_bytes - connection->queued)) {
        net->info.overfull++;
        net_fail(net, connection, ENOBUFS);
        return -ENOBUFS;
    }
    if (length && net_queue_add(net, connection, data, length))
        return -ENOMEM;
    connection->full |= connection->queued > net->options.high;
    net_mark(net, connection);
    return (int64_t)connection->queued;
}

int64_t udpring_net_send(struct udpring_net *net, uint64_t id, const uint8_t *data, uint64_t length)
{
    int code = usable(net);
    return ur_unlikely(code) ? code : append(net, id, data, length);
}

int64_t udpring_net_send_many(struct udpring_net *net, const uint64_t *ids, const uint64_t *starts, const uint32_t *lengths,
                              uint32_t count, const uint8_t *data, uint64_t size)
{
    int code = usable(net);
    if (ur_unlikely(code))
        return code;
    if (!data) {
        data = net->events->memory;
        size = (uint64_t)net->buffers.count * net->buffers.bytes;
    }
    for (uint32_t i = 0; i < count; i++)
        if (ur_unlikely(starts[i] > size || lengths[i] > size - starts[i]))
            return -ERANGE;
    int64_t unsent = 0;
    for (uint32_t i = 0; i < count; i++) {
        int64_t queued = append(net, ids[i], data + starts[i], lengths[i]);
        if (ur_unlikely(queued == -ENOMEM))
            net_fail(net, net_connection_of(net, ids[i]), ENOMEM);
        unsent += queued < 0;
    }
    return unsent;
}

static int order_one(struct udpring_net *net, struct net_connection *connection, uint32_t order)
{
    switch (order) {
    case UDPRING_NET_PAUSE:
    case UDPRING_NET_RESUME:
        connection->paused = order == UDPRING_NET_PAUSE;
        break;
    case UDPRING_NET_SHUTDOWN:
        connection->shutdown = true;
        break;
    case UDPRING_NET_CLOSE:
        connection->closing = true;
        break;
    case UDPRING_NET_ABORT:
        connection->closing = connection->dead = connection->reset = true;
        break;
    default:
        return -EINVAL;
    }
    net_mark(net, connection);
    return 0;
}

int32_t udpring_net_order(struct udpring_net *net, uint64_t id, uint32_t order)
{
    int code = usable(net);
    if (ur_unlikely(code))
        return code;
    struct net_connection *connection = net_connection_of(net, id);
    return connection ? order_one(net, connection, order) : -ENOENT;
}

int32_t udpring_net_order_all(struct udpring_net *net, uint32_t order)
{
    int code = usable(net);
    for (uint32_t i = 0; !code && i < net->top; i++)
        if (net->connections[i].fd >= 0)
            code = order_one(net, &net->connections[i], order);
    return code;
}

int64_t udpring_net_queued(const struct udpring_net *net, uint64_t id)
{
    const struct net_connection *connection = net ? net_connection_of(net, id) : NULL;
    return connection ? (int64_t)connection->queued : -ENOENT;
}

int32_t udpring_net_fd(const struct udpring_net *net, uint64_t id)
{
    const struct net_connection *connection = net ? net_connection_of(net, id) : NULL;
    return connection ? connection->fd : -ENOENT;
}

int32_t udpring_net_claim(struct udpring_net *net, uint64_t start, uint32_t length)
{
    int code = usable(net);
    return code ? code : net_buffers_claim(net, start, length);
}

int32_t udpring_net_release(struct udpring_net *net, uint64_t start, uint32_t length)
{
    int code = usable(net);
    return code ? code : net_buffers_release(net, start, length);
}
