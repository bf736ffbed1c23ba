/* Sending for Python: a batch is pushed, flushed and reaped in one call that returns when each packet has its result. */
#include "../base.h"

#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "counters.h"
#include "handle.h"
#include "tx.h"

#define REAP 64

struct udpring_send {
    struct udp_handle_owner owner;
    struct udp_handle_socket socket;
    atomic_bool closed;               /* whoever sets it ends the send side: once */
    struct udp_tx *tx;                /* NULL after close; the owner's thread, or whoever closes */
    struct udpring_tx_stats published;   /* for any thread: udp_counters_read() */
    uint32_t pending;                 /* written by the owner; read by any thread, relaxed */
    int wake;                         /* eventfd */
};

static void publish(struct udpring_send *send)
{
    udp_counters_publish(&send->published, udp_tx_stats(send->tx), sizeof(send->published));
    __atomic_store_n(&send->pending, udp_tx_pending(send->tx), __ATOMIC_RELAXED);
}

static int check(const struct udpring_send *send)
{
    int code = udp_handle_check(&send->owner);
    return code ? code : send->tx ? 0 : -ECANCELED;
}

int32_t udpring_send_open(struct udpring_send **opened, int32_t fd, uint32_t tier, uint32_t slots,
                          struct udpring_reason *why)
{
    *opened = NULL;
    struct udpring_send *send = calloc(1, sizeof(*send));
    if (!send)
        return ur_fail(why, -ENOMEM, "no memory for a send ring");
    struct udp_tx_options options = {.tier = tier, .slots = slots, .sockets = 1, .fd = {fd}};
    send->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int code = send->wake < 0 ? ur_fail(why, -errno, "no eventfd: %s", strerror(errno)) : 0;
    if (!code)
        code = udp_handle_claim(&send->owner);
    if (!code) {
        code = udp_handle_claim_socket(&send->socket, fd);
        if (code)
            ur_fail(why, code, "descriptor %d is no open socket: %s", fd, strerror(-code));
    }
    if (!code)
        code = udp_tx_open(&send->tx, &options, why);
    if (code) {
        if (send->wake >= 0)
            close(send->wake);
        free(send);
        return code;
    }
    *opened = send;
    return 0;
}

int32_t udpring_send_check(const struct udpring_send *send)
{
    return check(send);
}

/* Pushes while there is room. What cannot be pushed for its own fault has its result at once. */
static void push_all(struct udpring_send *send, struct udpring_send_job *job)
{
    for (; job->pushed < job->count; job->pushed++) {
        uint32_t i = job->pushed;
        struct udp_tx_item item = {.data = job->data + job->offset, .length = job->lengths[i], .token = i};
        if (job->address_count)
            item.destination = job->addresses[job->address_count == 1 ? 0 : i];
        int code = udp_tx_push(send->tx, &item);
        if (code == -ENOBUFS)
            return;
        job->offset += item.length;
        if (code) {
            job->results[i] = code;
            job->ended++;
        }
    }
}

static void reap_all(struct udpring_send *send, struct udpring_send_job *job)
{
    struct udp_tx_done done[REAP];
    unsigned count;
    while ((count = udp_tx_reap(send->tx, done, REAP))) {
        for (unsigned i = 0; i < count; i++)
            job->results[done[i].token] = done[i].result;
        job->ended += count;
    }
}

/* Until the socket that holds us up is writable, or somebody wants to close. */
static int wait_writable(struct udpring_send *send, int64_t timeout_ns)
{
    /* Not parked and nothing ended: the kernel is short of memory for the operation itself; look again in a moment. */
    int fd = udp_tx_parked(send->tx);
    if (fd < 0 && !timeout_ns)
        return -ETIME;
    struct pollfd polled[] = {{.fd = send->wake, .events = POLLIN}, {.fd = fd, .events = POLLOUT}};
    struct timespec limit = {timeout_ns / 1000000000, timeout_ns % 1000000000}, moment = {.tv_nsec = 1000000};
    bool endless = timeout_ns < 0;
    int ready = fd < 0 ? ppoll(polled, 1, endless || timeout_ns > moment.tv_nsec ? &moment : &limit, NULL)
                       : ppoll(polled, 2, endless ? NULL : &limit, NULL);
    if (ready < 0)
        return -errno;
    if (polled[0].revents) {
        eventfd_t ignored;
        (void)eventfd_read(send->wake, &ignored);
        return -ECANCELED;
    }
    return ready || fd < 0 ? 0 : -ETIME;
}

/* Nothing more of the job is going to be sent: its result is `result`. */
static void give_up(struct udpring_send *send, struct udpring_send_job *job, int32_t result)
{
    (void)udp_tx_abandon(send->tx, result);
    reap_all(send, job);
    for (; job->pushed < job->count; job->pushed++, job->ended++)
        job->results[job->pushed] = result;
    publish(send);
}

int32_t udpring_send_run(struct udpring_send *send, struct udpring_send_job *job, int64_t timeout_ns)
{
    int code = check(send);
    if (code)
        return code;
    if (udp_handle_check_socket(&send->socket)) {   /* its number may be another socket's by now */
        give_up(send, job, -EBADF);
        return 0;
    }
    int64_t deadline = timeout_ns > 0 ? (int64_t)ur_clock_ns(CLOCK_MONOTONIC) + timeout_ns : 0;
    for (;;) {
        uint32_t before = job->ended;
        push_all(send, job);
        code = udp_tx_flush(send->tx);
        reap_all(send, job);
        publish(send);
        if (job->ended == job->count)
            return 0;
        if (job->ended != before)
            continue;
        if (code)
            return code;
        int64_t left = timeout_ns;
        if (timeout_ns > 0) {
            left = deadline - (int64_t)ur_clock_ns(CLOCK_MONOTONIC);
            if (left <= 0)
                return -ETIME;
        }
        code = wait_writable(send, left);
        if (code)
            return code;
    }
}

int32_t udpring_send_abandon(struct udpring_send *send, struct udpring_send_job *job)
{
    int code = check(send);
    if (code)
        return code;
    give_up(send, job, -EAGAIN);
    return job->ended == job->count ? 0 : -EBUSY;
}

int32_t udpring_send_close(struct udpring_send *send)
{
    int code = udp_handle_check_close(&send->owner);
    if (code)
        return code;
    if (atomic_exchange(&send->closed, true))
        return 0;
    publish(send);
    (void)udp_tx_close(send->tx);
    send->tx = NULL;
    return 0;
}

void udpring_send_wake(struct udpring_send *send)
{
    (void)eventfd_write(send->wake, 1);
}

void udpring_send_free(struct udpring_send *send)
{
    if (!send->closed && udpring_send_close(send))
        return;   /* in use by the kernel, and only a thread that is not here could stop it: it stays */
    close(send->wake);
    free(send);
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

uint32_t udpring_send_pending(const struct udpring_send *send)
{
    return __atomic_load_n(&send->pending, __ATOMIC_RELAXED);
}
