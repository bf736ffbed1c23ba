#include "ring.h"

#include <sys/socket.h>
#include <unistd.h>

#include "accepting.h"
#include "buffers.h"
#include "connections.h"
#include "queue.h"

#define SQ_ENTRIES 1024u
#define CQ_ENTRIES 8192u
#define STOP_NS 2000000000ll
#define ROUND_NS 20000000ll

static uint32_t place_of(const struct udpring_net *net, const struct net_connection *connection)
{
    return (uint32_t)(connection - net->connections);
}

static void arm_receive(struct udpring_net *net, struct net_connection *connection)
{
    if (net->buffers.out == net->buffers.count) {
        net->info.starved += !connection->starved;
        connection->starved = net->buffers.waiting = true;
        return;
    }
    struct io_uring_sqe *sqe = ur_sqe_or_submit(&net->ring);
    if (!sqe) {
        net_mark(net, connection);
        return;
    }
    connection->receiving = true;
    sqe->opcode = IORING_OP_RECV;
    sqe->fd = connection->fd;
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->buf_group = net->buffers.ring.group;
    sqe->ioprio = (uint16_t)(IORING_RECV_MULTISHOT | (net->bundles ? IORING_RECVSEND_BUNDLE : 0));
    sqe->user_data = UR_USER_DATA(UR_KIND_NET_RECV, connection->generation, place_of(net, connection));
}

static bool cancel(struct udpring_net *net, const struct net_connection *connection, enum ur_kind kind)
{
    struct io_uring_sqe *sqe = ur_sqe_or_submit(&net->ring);
    if (!sqe)
        return false;
    sqe->opcode = IORING_OP_ASYNC_CANCEL;
    sqe->fd = -1;
    sqe->addr = UR_USER_DATA(kind, connection->generation, place_of(net, connection));
    sqe->user_data = UR_USER_DATA(UR_KIND_CANCEL, connection->generation, place_of(net, connection));
    return true;
}

/* A send that is silent is done when the kernel has taken its entry: DONTWAIT forbids it to wait, and WAITALL makes it a failure,
 * with a completion, if it sends less than all. */
static void start_send(struct udpring_net *net, struct net_connection *connection)
{
    const uint8_t *data = NULL;
    uint32_t length = net_queue_head(connection, &data);
    struct io_uring_sqe *sqe = ur_sqe_or_submit(&net->ring);
    if (!sqe) {
        net_mark(net, connection);
        return;
    }
    bool silent = net->known_ends && !connection->blocked && net->silent_count < net->options.connections;
    connection->sending = silent ? NET_SILENT : NET_ARMED;
    connection->flight = length;
    sqe->opcode = IORING_OP_SEND;
    sqe->fd = connection->fd;
    sqe->addr = (uint64_t)(uintptr_t)data;
    sqe->len = length;
    sqe->msg_flags = MSG_NOSIGNAL | MSG_WAITALL | (silent ? MSG_DONTWAIT : 0);
    sqe->flags = silent ? IOSQE_CQE_SKIP_SUCCESS : 0;
    sqe->user_data = UR_USER_DATA(silent ? UR_KIND_SILENT : UR_KIND_NET_SEND, connection->generation, place_of(net, connection));
    if (silent) {
        net->silent[net->silent_count++] = place_of(net, connection);
        net->hasty |= connection->queued > length || connection->full || connection->closing || connection->shutdown;
    }
    net->info.sends++;
}

static void end(struct udpring_net *net, struct net_connection *connection)
{
    if (connection->receiving && !connection->receive_cancelled)
        connection->receive_cancelled = cancel(net, connection, UR_KIND_NET_RECV);
    if (connection->sending == NET_ARMED && !connection->send_cancelled)
        connection->send_cancelled = cancel(net, connection, UR_KIND_NET_SEND);
    if (connection->receiving || connection->sending != NET_IDLE)
        return;   /* its last completion marks it again */
    if (net_notice_room(net))
        net_connection_finish(net, connection);
    else
        net_mark(net, connection);
}

/* Brings what is wanted and what is under way together. */
static void advance(struct udpring_net *net, struct net_connection *connection)
{
    if (ur_unlikely(connection->ending))
        net_close_ending(net, connection);
    if (ur_unlikely(net_drained(net, connection)))
        net_sent(net, connection);
    if (!connection->dead && connection->head && connection->sending == NET_IDLE)
        start_send(net, connection);
    if (!connection->head) {
        if (connection->shutdown && !connection->shut && !connection->dead) {
            connection->shut = true;
            shutdown(connection->fd, SHUT_WR);
        }
        connection->dead |= connection->closing;
    }
    if (connection->dead) {
        end(net, connection);
        return;
    }
    bool wanted = net_reads(connection);
    if (wanted && !connection->receiving)
        arm_receive(net, connection);
    else if (!wanted && connection->receiving && !connection->receive_cancelled && !connection->ended)
        connection->receive_cancelled = cancel(net, connection, UR_KIND_NET_RECV);
}

static void advance_marked(struct udpring_net *net)
{
    /* What is marked again meanwhile (no entry was free, no room for notices) waits for the next call. */
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

static void received(struct udpring_net *net, const struct io_uring_cqe *cqe)
{
    uint32_t place = UR_SLOT(cqe->user_data);
    struct net_connection *connection = place < net->top ? &net->connections[place] : NULL;
    bool known = connection && connection->receiving && UR_GENERATION(cqe->user_data) == (connection->generation & 0xffffffu);
    bool shown = known && cqe->res > 0 && !connection->closing && !connection->dead;
    if (cqe->flags & IORING_CQE_F_BUFFER)
        net_buffers_lend(net, shown ? net_id(net, connection) : 0, (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT),
                         cqe->res > 0 ? (uint32_t)cqe->res : 0, shown);
    if (!known) {
        net->info.stale++;
        return;
    }
    if (cqe->flags & IORING_CQE_F_MORE)
        return;
    connection->receiving = connection->receive_cancelled = false;
    net_mark(net, connection);
    if (cqe->res == 0)
        net_ended(net, connection);
    else if (cqe->res == -ENOBUFS)
        net->info.starved++;
    else if (cqe->res < 0 && cqe->res != -ECANCELED && cqe->res != -EINTR && cqe->res != -EAGAIN)
        net_fail(net, connection, ur_errno(cqe->res));
}

/* The completion of a send: of each armed one, and of silent ones that failed. */
static void sent(struct udpring_net *net, const struct io_uring_cqe *cqe, enum net_sending sending)
{
    uint32_t place = UR_SLOT(cqe->user_data);
    struct net_connection *connection = place < net->top ? &net->connections[place] : NULL;
    if (!connection || connection->sending != sending ||
        UR_GENERATION(cqe->user_data) != (connection->generation & 0xffffffu)) {
        net->info.stale++;
        return;
    }
    uint32_t length = cqe->res > 0 ? (uint32_t)cqe->res : 0;
    connection->sending = NET_IDLE;
    connection->send_cancelled = false;
    connection->blocked = length < connection->flight;
    net->info.short_sends += connection->blocked;
    if (length)
        net_queue_advance(net, connection, length);
    if (cqe->res < 0 && cqe->res != -EAGAIN && cqe->res != -EINTR && cqe->res != -ECANCELED)
        net_fail(net, connection, ur_errno(cqe->res));
    net_sent(net, connection);
}

static void harvest(struct udpring_net *net)
{
    struct ur_ring *ring = &net->ring;
    uint32_t ready = ur_cq_ready(ring), done = 0;
    for (; done < ready && net_notice_room(net) && net->buffers.lent_count < net->buffers.count; done++) {
        const struct io_uring_cqe *cqe = ur_cq_at(ring, done);
        switch (UR_KIND(cqe->user_data)) {
        case UR_KIND_NET_RECV:
            received(net, cqe);
            break;
        case UR_KIND_SILENT:
            sent(net, cqe, NET_SILENT);
            break;
        case UR_KIND_NET_SEND:
            sent(net, cqe, NET_ARMED);
            break;
        case UR_KIND_NET_ACCEPT:
            net_accepting_done(net, cqe);
            break;
        case UR_KIND_NET_WAKE:
            net->wake_armed = false;
            net->events->woken |= cqe->res > 0;
            break;
        case UR_KIND_NET_PAUSE:
            net->pause_armed = false;
            break;
        case UR_KIND_CANCEL:
            break;
        default:
            net->info.stale++;
        }
    }
    ur_cq_advance(ring, done);
}

/* Silent sends that the kernel has taken, and that no completion reported as failed, are done. That is known when no completion is
 * left in the queue or behind it. */
static void settle_silent(struct udpring_net *net)
{
    if (!net->silent_count || ur_sq_queued(&net->ring) || ur_cq_ready(&net->ring) ||
        ur_relaxed(net->ring.sq_kflags) & IORING_SQ_CQ_OVERFLOW)
        return;
    for (uint32_t i = 0; i < net->silent_count; i++) {
        struct net_connection *connection = &net->connections[net->silent[i]];
        if (connection->sending != NET_SILENT)
            continue;
        connection->sending = NET_IDLE;
        net_queue_advance(net, connection, connection->flight);
        net_sent(net, connection);
    }
    net->silent_count = 0;
}

static void arm_wake(struct udpring_net *net)
{
    struct io_uring_sqe *sqe = net->wake_armed ? NULL : ur_sqe_or_submit(&net->ring);
    if (!sqe)
        return;
    net->wake_armed = true;
    sqe->opcode = IORING_OP_READ;
    sqe->fd = net->wake_fd;
    sqe->addr = (uint64_t)(uintptr_t)&net->wake_word;
    sqe->len = sizeof(net->wake_word);
    sqe->user_data = UR_USER_DATA(UR_KIND_NET_WAKE, 0, 0);
}

/* Nothing else makes the descriptor readable at the end of a pause of accepting. */
static void arm_pause(struct udpring_net *net, int64_t left)
{
    struct io_uring_sqe *sqe = net->pause_armed ? NULL : ur_sqe_or_submit(&net->ring);
    if (!sqe)
        return;
    net->pause_armed = true;
    net->pause = (struct __kernel_timespec){.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
    sqe->opcode = IORING_OP_TIMEOUT;
    sqe->fd = -1;
    sqe->addr = (uint64_t)(uintptr_t)&net->pause;
    sqe->len = 1;
    sqe->user_data = UR_USER_DATA(UR_KIND_NET_PAUSE, 0, 0);
}

static bool has_events(const struct udpring_net *net)
{
    return net->events->rows || net->events->notice_rows || net->events->woken;
}

/* One round: starts what is wanted, waits, takes completions. 0, -ETIME, -EINTR or another -errno. */
static int go_round(struct udpring_net *net, int64_t left)
{
    settle_silent(net);
    net->hasty = false;
    net_feed_starved(net);
    advance_marked(net);
    net_feed_starved(net);
    int64_t limit = net_accepting_advance(net);
    if (limit > 0 && net->event_fd >= 0)
        arm_pause(net, limit);
    if (!net->wake_armed)
        arm_wake(net);
    /* No completion wakes us for a notice, or for what follows a silent send. */
    if (has_events(net) || net->hasty)
        left = 0;
    else if (net->marked_count && (left < 0 || left > 1000000))
        left = 1000000;
    if (limit >= 0 && (left < 0 || limit < left))
        left = limit;
    net->info.waits++;
    int code = ur_submit_and_wait(&net->ring, left ? 1 : 0, left);
    harvest(net);
    settle_silent(net);
    return code;
}

int net_ring_turn(struct udpring_net *net, int64_t timeout_ns)
{
    int64_t deadline = timeout_ns > 0 ? (int64_t)ur_clock_ns(CLOCK_MONOTONIC) + timeout_ns : 0, left = timeout_ns;
    unsigned rounds = 0;
    if (ur_unlikely(net->failed)) {
        int code = net->failed;
        net->failed = 0;
        return code;
    }
    if (net->event_fd >= 0) {
        uint64_t signals;
        ssize_t length = read(net->event_fd, &signals, sizeof(signals));
        (void)length;   /* EAGAIN: not signalled */
    }
    for (;;) {
        int code = go_round(net, left);
        bool failed = code && code != -ETIME && code != -EAGAIN && code != -EBUSY;
        if (has_events(net)) {
            net->failed = failed && code != -EINTR ? code : 0;   /* the program gets the events first */
            break;
        }
        if (failed)
            return code;
        bool again = net->marked_count || (net->event_fd >= 0 && !net->pause_armed && net_accepting_pauses(net));
        if (timeout_ns == 0 && (!again || ++rounds == NET_ROUNDS))
            break;
        if (timeout_ns > 0 && (left = deadline - (int64_t)ur_clock_ns(CLOCK_MONOTONIC)) <= 0)
            break;
        net_buffers_give_back(net);   /* those of connections that want no data */
    }
    net->events->unfinished = net->marked_count || ur_cq_ready(&net->ring) || ur_work_pending(&net->ring) || ur_sq_queued(&net->ring);
    return 0;
}

/* Empties the columns, for a round whose events nobody sees. */
static void forget_events(struct udpring_net *net)
{
    net->events->rows = net->events->notice_rows = 0;
    net_buffers_give_back(net);
}

int net_ring_stop(struct udpring_net *net)
{
    int code = ur_ring_usable(&net->ring);
    if (code)
        return code;
    /* A connection that is being accepted has a descriptor, which only its completion names. */
    int64_t deadline = (int64_t)ur_clock_ns(CLOCK_MONOTONIC) + STOP_NS;
    net->stopping = true;
    while (net_accepting_armed(net) && (int64_t)ur_clock_ns(CLOCK_MONOTONIC) < deadline) {
        forget_events(net);
        net_accepting_advance(net);
        code = ur_submit_and_wait(&net->ring, 1, ROUND_NS);
        harvest(net);
        if (code && code != -ETIME && code != -EINTR && code != -EAGAIN && code != -EBUSY)
            break;
    }
    forget_events(net);
    return ur_ring_stop(&net->ring);
}

/* Receives one byte as connections will. */
static int try_receive(struct udpring_net *net, struct udpring_reason *why)
{
    int ends[2], code = -EIO;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        return ur_fail(why, -errno, "socketpair: %s", strerror(errno));
    struct io_uring_sqe *sqe = ur_sqe(&net->ring);
    sqe->opcode = IORING_OP_RECV;
    sqe->fd = ends[0];
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->buf_group = net->buffers.ring.group;
    sqe->ioprio = IORING_RECV_MULTISHOT;
    sqe->user_data = UR_USER_DATA(UR_KIND_NET_RECV, 0, 0);
    bool armed = true, works = false;
    if (write(ends[1], "x", 1) == 1)
        shutdown(ends[1], SHUT_WR);
    while (armed) {
        code = ur_submit_and_wait(&net->ring, 1, STOP_NS);
        if (code == -EINTR)
            continue;
        if (code)
            break;
        const struct io_uring_cqe *cqe = ur_cq_at(&net->ring, 0);
        armed = cqe->flags & IORING_CQE_F_MORE;
        works |= cqe->res == 1 && armed && cqe->flags & IORING_CQE_F_BUFFER;
        code = cqe->res < 0 ? cqe->res : 0;
        if (cqe->flags & IORING_CQE_F_BUFFER)
            net_buffers_lend(net, 0, (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT), 0, false);
        ur_cq_advance(&net->ring, 1);
    }
    net_buffers_give_back(net);
    close(ends[0]);
    close(ends[1]);
    if (works && !armed)
        return 0;
    return ur_fail(why, -EOPNOTSUPP, "a multishot receive into a buffer ring: %s (Linux 6.0 or newer)",
                   code < 0 ? strerror(-code) : "not what was expected");
}

int net_ring_open(struct udpring_net *net, struct udpring_reason *why)
{
    const struct ur_ring_options options = {
        .entries = SQ_ENTRIES, .cq_entries = CQ_ENTRIES, .flags_deny = net->options.flags_deny, .visible_work = true,
    };
    int code = ur_ring_open(&net->ring, &options, why);
    if (code)
        return code;
    net->info.setup_flags = (int32_t)net->ring.setup_flags;
    /* From the kernels on that have bundles (6.10), a send that fails half-way reports what it had sent. */
    net->known_ends = net->options.known_ends && net->ring.features & IORING_FEAT_RECVSEND_BUNDLE;
    net->bundles = net->options.bundles && net->ring.features & IORING_FEAT_RECVSEND_BUNDLE;
    code = net_buffers_open(net, why);
    return code ? code : try_receive(net, why);
}
