/* Sending for Python: a batch is pushed, flushed and reaped in one call that returns when each packet has its result. */
#include "../base.h"

#include <poll.h>
#include <stdlib.h>

#include "handle.h"
#include "tx.h"

#define REAP 64

struct udpring_send {
    struct udp_handle_owner owner;
    struct udp_tx *tx;
};

int32_t udpring_send_open(struct udpring_send **opened, int32_t fd, uint32_t tier, uint32_t slots,
                          struct udpring_reason *why)
{
    *opened = NULL;
    struct udpring_send *send = calloc(1, sizeof(*send));
    if (!send)
        return ur_fail(why, -ENOMEM, "no memory for a send ring");
    struct udp_tx_options options = {.tier = tier, .slots = slots, .sockets = 1, .fd = {fd}};
    int code = udp_handle_claim(&send->owner);
    if (!code)
        code = udp_tx_open(&send->tx, &options, why);
    if (code) {
        free(send);
        return code;
    }
    *opened = send;
    return 0;
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

/* Until the socket that holds us up is writable. */
static int wait_writable(struct udpring_send *send, int64_t timeout_ns)
{
    /* Not parked and nothing ended: the kernel is short of memory for the operation itself; look again in a moment. */
    int fd = udp_tx_parked(send->tx);
    if (fd < 0 && !timeout_ns)
        return -ETIME;
    struct pollfd writable = {.fd = fd, .events = POLLOUT};
    struct timespec limit = {timeout_ns / 1000000000, timeout_ns % 1000000000}, moment = {.tv_nsec = 1000000};
    bool endless = timeout_ns < 0;
    int ready = fd < 0 ? ppoll(NULL, 0, endless || timeout_ns > moment.tv_nsec ? &moment : &limit, NULL)
                       : ppoll(&writable, 1, endless ? NULL : &limit, NULL);
    if (ready < 0)
        return -errno;
    return ready || fd < 0 ? 0 : -ETIME;
}

int32_t udpring_send_run(struct udpring_send *send, struct udpring_send_job *job, int64_t timeout_ns)
{
    int code = udp_handle_check(&send->owner);
    if (code)
        return code;
    int64_t deadline = timeout_ns > 0 ? (int64_t)ur_clock_ns(CLOCK_MONOTONIC) + timeout_ns : 0;
    for (;;) {
        uint32_t before = job->ended;
        push_all(send, job);
        code = udp_tx_flush(send->tx);
        reap_all(send, job);
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
    int code = udp_handle_check(&send->owner);
    if (code)
        return code;
    (void)udp_tx_abandon(send->tx, -EAGAIN);
    reap_all(send, job);
    for (; job->pushed < job->count; job->pushed++, job->ended++)
        job->results[job->pushed] = -EAGAIN;
    return job->ended == job->count ? 0 : -EBUSY;
}

int32_t udpring_send_close(struct udpring_send *send)
{
    int code = udp_handle_check_close(&send->owner);
    if (code)
        return code;
    (void)udp_tx_close(send->tx);
    free(send);
    return 0;
}

uint32_t udpring_send_tier(const struct udpring_send *send)
{
    return udp_tx_tier(send->tx);
}

const char *udpring_send_reason(const struct udpring_send *send)
{
    return udp_tx_tier_reason(send->tx);
}

void udpring_send_stats(const struct udpring_send *send, struct udpring_tx_stats *stats)
{
    *stats = *udp_tx_stats(send->tx);
}

uint32_t udpring_send_pending(const struct udpring_send *send)
{
    return udp_tx_pending(send->tx);
}
