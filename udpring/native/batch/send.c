/* Sending for Python: batches are queued, cut into trains, pushed, flushed and reaped.
 *
 * 1. udpring_send_submit checks a job, copies its lengths, and queues it behind the others.
 * 2. push_jobs lays out a window of the job (grouped by destination), cuts trains from the front, and pushes each as one piece.
 *    If the ring has helpers, all of them first send as much of the window as possible (send_fan.c).
 * 3. udp_tx_flush sends. reap_all sets the result of every datagram of a piece. A train that its route refuses is pushed
 *    again datagram by datagram, before anything else.
 * 4. A job has ended when all its datagrams have a result. The caller may then reuse its memory. */
#include "../base.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "../uring/graveyard.h"
#include "../uring/thread.h"

#include "counters.h"
#include "send_fan.h"
#include "send_push.h"

static void publish(struct udpring_send *send)
{
    udp_counters_publish(&send->published, udp_tx_stats(send->tx), sizeof(send->published));
    __atomic_store_n(&send->pending, send->unfinished, __ATOMIC_RELAXED);
    __atomic_store_n(&send->zero_copy, udp_tx_zero_copy(send->tx), __ATOMIC_RELAXED);
    if (ur_unlikely(send->epoll >= 0))
        send_prepare_poll(send);
}

static void free_send(struct udpring_send *send)
{
    while (send->spare) {
        struct send_job *job = send->spare;
        send->spare = job->next;
        send_job_free(job);
    }
    if (atomic_load(&send->wake) >= 0)
        close(atomic_load(&send->wake));
    if (send->epoll >= 0)
        close(send->epoll);
    send_paths_free(&send->paths);
    free(send->piece);
    free(send->free);
    free(send);
}

static int make_pieces(struct udpring_send *send)
{
    uint64_t seed;
    if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
        return -EIO;
    send->plan.seed = seed;
    send->pieces = send->free_count = udp_tx_room(send->tx);
    send->piece = calloc(send->pieces, sizeof(*send->piece));
    send->free = calloc(send->pieces, sizeof(*send->free));
    if (!send->piece || !send->free)
        return -ENOMEM;
    for (uint32_t i = 0; i < send->pieces; i++)
        send->free[i] = send->pieces - 1 - i;
    return send_paths_open(&send->paths, seed);
}

int32_t udpring_send_open(struct udpring_send **opened, const struct udpring_send_options *options,
                          struct udpring_reason *why)
{
    *opened = NULL;
    struct udpring_send *send = calloc(1, sizeof(*send));
    if (!send)
        return ur_fail(why, -ENOMEM, "no memory for a send ring");
    struct udp_tx_options inner = {.tier = options->tier, .slots = options->slots, .sockets = 1, .fd = {options->fd},
                                   .zero_copy = options->zero_copy};
    send->again_first = SEND_NO_PIECE;
    send->epoll = send->polled = -1;
    send->trains = options->gso;
    atomic_init(&send->wake, -1);
    int code = udp_handle_claim(&send->owner);
    if (!code) {
        code = udp_handle_claim_socket(&send->socket, options->fd);
        if (code)
            ur_fail(why, code, "descriptor %d is not an open socket: %s", options->fd, strerror(-code));
    }
    if (!code)
        code = udp_tx_open(&send->tx, &inner, why);
    if (!code) {
        code = make_pieces(send);
        if (code)
            ur_fail(why, code, "no memory for a send ring: %s", strerror(-code));
    }
    if (!code && options->helpers)
        code = send_fan_open(&send->fan, options->helpers, why);
    if (code) {
        (void)udp_tx_close(send->tx);
        free_send(send);
        return code;
    }
    publish(send);
    *opened = send;
    return 0;
}

int32_t udpring_send_check(const struct udpring_send *send)
{
    return send_check(send);
}

int32_t udpring_send_move(struct udpring_send *send)
{
    bool movable = send->tx && udp_tx_tier(send->tx) == UDPRING_TIER_MMSG && !send->fan &&
                   send->owner.forks == ur_fork_count();
    return movable ? udp_handle_claim(&send->owner) : -EXDEV;
}

int32_t udpring_send_use(struct udpring_send *send, int32_t fd)
{
    struct udp_handle_socket socket;
    int code = send_check(send);
    if (!code)
        code = send->unfinished || send->epoll >= 0 ? -EBUSY : udp_handle_claim_socket(&socket, fd);
    if (!code)
        code = udp_tx_use(send->tx, fd);
    if (!code)
        send->socket = socket;
    return code;
}

int32_t udpring_send_submit(struct udpring_send *send, struct udpring_send_job *face)
{
    int code = send_check(send);
    if (code)
        return code;
    struct send_job *job = send->spare;
    if (job) {
        send->spare = job->next;
        send->spares--;
    } else {
        job = calloc(1, sizeof(*job));
        if (!job)
            return -ENOMEM;
    }
    code = send_job_take(job, face, send->trains || send->fan);
    if (code) {
        send_end_job(send, job);
        send->finished--;
        return code;
    }
    face->ended = face->failed = 0;
    face->taken = 1;
    if (!face->count) {
        send_end_job(send, job);
        return 0;
    }
    job->control = face->source.family || face->interface_index || face->ttl || face->flags & UDPRING_SEND_TOS;
    if (!face->address_count && job->control)   /* the program may have connected the socket meanwhile */
        udp_tx_learn_peer(send->tx, 0);
    job->next = NULL;
    if (send->first)
        send->last->next = job;
    else
        send->first = job;
    send->last = job;
    send->unfinished += face->count;
    if (udp_handle_check_socket(&send->socket))   /* its number may belong to another socket now */
        send_drop(send, NULL, -EBADF);
    else
        (void)send_advance(send);   /* udpring_send_run returns the same error */
    publish(send);
    return 0;
}

int32_t udpring_send_one(struct udpring_send *send, const uint8_t *data, uint64_t length, const uint8_t *address)
{
    if (send_check(send) || send->unfinished || udp_handle_check_socket(&send->socket))
        return 1;
    struct udpring_address to;
    if (address)
        memcpy(&to, address, sizeof(to));
    int code = udp_tx_send_now(send->tx, data, length, address ? &to : NULL);
    if (code <= 0)
        publish(send);
    return code;
}

/* Most rings never wait, and many endpoints should need few descriptors. */
static int send_take_wake(struct udpring_send *send)
{
    eventfd_t ignored;
    if (atomic_load(&send->wake) >= 0)
        (void)eventfd_read(atomic_load(&send->wake), &ignored);
    atomic_store(&send->woken, false);
    return -ECANCELED;
}

/* Waits until the parked socket is writable, a zero-copy notification arrives, or another thread wants to close. */
static int wait_ready(struct udpring_send *send, int64_t timeout_ns)
{
    if (!timeout_ns && udp_tx_parked(send->tx) < 0)
        return -ETIME;
    int wake = timeout_ns ? send_wake_fd(send) : atomic_load(&send->wake);
    if (timeout_ns && wake < 0)
        return wake;
    if (atomic_load(&send->woken))
        return send_take_wake(send);
    struct pollfd polled[] = {{.fd = wake, .events = POLLIN}, {.fd = udp_tx_parked(send->tx), .events = POLLOUT}};
    if (polled[1].fd < 0)
        polled[1] = (struct pollfd){.fd = udp_tx_awaits_notice(send->tx), .events = POLLIN};
    /* Neither applies, and no send ended: the kernel has no memory for the operation itself. Try again after a moment. */
    int fd = polled[1].fd;
    struct timespec limit = {timeout_ns / 1000000000, timeout_ns % 1000000000}, moment = {.tv_nsec = 1000000};
    bool endless = timeout_ns < 0;
    int ready = fd < 0 ? ppoll(polled, 1, endless || timeout_ns > moment.tv_nsec ? &moment : &limit, NULL)
                       : ppoll(polled, 2, endless ? NULL : &limit, NULL);
    if (ready < 0)
        return -errno;
    if (polled[0].revents)
        return send_take_wake(send);
    return ready || fd < 0 ? 0 : -ETIME;
}

int32_t udpring_send_run(struct udpring_send *send, const struct udpring_send_job *face, uint64_t finished,
                         int64_t timeout_ns)
{
    int code = send_check(send);
    if (code)
        return code;
    if (send->unfinished && udp_handle_check_socket(&send->socket)) {
        send_drop(send, NULL, -EBADF);
        publish(send);
    }
    int64_t deadline = timeout_ns > 0 ? (int64_t)ur_clock_ns(CLOCK_MONOTONIC) + timeout_ns : 0;
    for (;;) {
        if (face ? face->ended == face->count : send->finished >= finished)
            return 0;
        uint64_t before = send->unfinished;
        code = send_advance(send);
        publish(send);
        if (send->unfinished != before)
            continue;
        if (code)
            return code;
        int64_t left = timeout_ns;
        if (timeout_ns > 0) {
            left = deadline - (int64_t)ur_clock_ns(CLOCK_MONOTONIC);
            if (left <= 0)
                return -ETIME;
        }
        code = wait_ready(send, left);
        if (code)
            return code;
    }
}

int32_t udpring_send_abandon(struct udpring_send *send, struct udpring_send_job *face)
{
    int code = send_check(send);
    if (code)
        return code;
    send_drop(send, face, -EAGAIN);
    publish(send);
    return face->ended == face->count ? 0 : -EBUSY;
}

static void end_helpers(struct udpring_send *send)
{
    send_fan_close(send->fan, send->owner.forks == ur_fork_count());
    send->fan = NULL;
}

/* Ends the send side. `tell`: the jobs' memory is still valid, so they get their results. */
static int end(struct udpring_send *send, bool tell)
{
    int code = udp_handle_check_close(&send->owner);
    if (code)
        return code;
    if (atomic_exchange(&send->closed, true))
        return 0;
    if (send->owner.forks != ur_fork_count())
        tell = false;   /* the parent owns the jobs. This child's slots read as zero */
    if (tell)
        send_drop(send, NULL, -ECANCELED);
    publish(send);
    end_helpers(send);
    bool ended = udp_tx_close(send->tx);
    send->tx = NULL;
    if (tell)
        send_give_up(send, -ECANCELED);
    send_forget_jobs(send, !ended);
    if (!ended) {   /* leak the vectors of trains together with their payloads */
        ur_graveyard_leak(send->piece, send->pieces * sizeof(*send->piece));
        send->piece = NULL;
    }
    return !ended;
}

int32_t udpring_send_close(struct udpring_send *send)
{
    return end(send, true);
}

void udpring_send_wake(struct udpring_send *send)
{
    atomic_store(&send->woken, true);
    int wake = atomic_load(&send->wake);   /* in this order: an owner that makes it now sees `woken` */
    if (wake >= 0)
        (void)eventfd_write(wake, 1);
}

void udpring_send_free(struct udpring_send *send)
{
    end_helpers(send);   /* any thread may do this: nothing sends any more */
    if (!send->closed && end(send, false) < 0)
        return;   /* the kernel uses it, and only another thread can stop that: never free it */
    free_send(send);
}

uint32_t udpring_send_tier(const struct udpring_send *send)
{
    return send->tx ? udp_tx_tier(send->tx) : 0;
}

const char *udpring_send_reason(const struct udpring_send *send)
{
    return send->tx ? udp_tx_tier_reason(send->tx) : "";
}

void udpring_send_stats(const struct udpring_send *send, struct udpring_tx_stats *stats)
{
    udp_counters_read(stats, &send->published, sizeof(*stats));
}

int32_t udpring_send_zero_copy(const struct udpring_send *send)
{
    return __atomic_load_n(&send->zero_copy, __ATOMIC_RELAXED);
}

uint64_t udpring_send_pending(const struct udpring_send *send)
{
    return __atomic_load_n(&send->pending, __ATOMIC_RELAXED);
}

uint64_t udpring_send_finished(const struct udpring_send *send)
{
    return send->finished;
}

uint64_t udpring_send_helped(const struct udpring_send *send)
{
    return __atomic_load_n(&send->helped, __ATOMIC_RELAXED);
}
