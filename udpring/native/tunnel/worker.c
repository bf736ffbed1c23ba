/* The worker: one native thread that never takes the GIL and runs each packet to completion (R4). plane.h has its pass. */
#include <poll.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "plane.h"

/* Counter structs hold nothing but uint64_t. */
void counters_add(void *into, const void *from, size_t bytes)
{
    uint64_t *sum = into;
    const uint64_t *more = from;
    for (size_t i = 0; i < bytes / sizeof(*sum); i++)
        sum[i] += more[i];
}

/* Waits a bounded time for sends in flight, so that their slots come back before the ring goes. */
static void drain_sends(struct udpring_plane *plane)
{
    uint64_t until = ur_clock_ns(CLOCK_MONOTONIC) + DRAIN_NS;
    outbound_close_train(plane);
    while (udp_tx_pending(plane->tx) && ur_clock_ns(CLOCK_MONOTONIC) < until) {
        udp_tx_flush(plane->tx);
        outbound_reap(plane);
        int fd = udp_tx_parked(plane->tx);
        if (fd >= 0) {
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            poll(&writable, 1, 20);
        }
    }
}

static void slots_reset(struct udpring_plane *plane)
{
    plane->out_free_count = 0;
    for (uint32_t slot = 0; slot < OUT_SLOTS; slot++) {
        plane->out[slot].in_flight = 0;
        plane->out_free[plane->out_free_count++] = slot;
    }
}

static void rings_close(struct udpring_plane *plane)
{
    if (plane->tx) {
        drain_sends(plane);
        counters_add(&plane->tx_before, udp_tx_stats(plane->tx), sizeof(plane->tx_before));
        udp_tx_close(plane->tx);
        plane->tx = NULL;
        slots_reset(plane);   /* the ring is closed: whatever it still held is ours again */
    }
    if (plane->rx) {
        counters_add(&plane->rx_before, udp_rx_stats(plane->rx), sizeof(plane->rx_before));
        udp_rx_close(plane->rx);
        plane->rx = NULL;
    }
    for (int family = 0; family < 2; family++)
        if (plane->fd[family] >= 0) {
            close(plane->fd[family]);
            plane->fd[family] = -1;
        }
}

/* New sockets and rings beside the old ones; the old go only when the new stand. */
int worker_bind(struct udpring_plane *plane, uint16_t *port, uint32_t fwmark, struct udpring_reason *why)
{
    int fd[2];
    int result = udp_socket_pair(fd, port, fwmark, why);
    if (result < 0)
        return result;
    struct udp_rx_options rx_options = {.tier = plane->options.tier, .slots = plane->options.slots,
                                        .gro = !(plane->options.flags & UDPRING_PLANE_NO_UDP_OFFLOAD)};
    struct udp_tx_options tx_options = {.slots = OUT_SLOTS * 2};   /* a refused train is sent again in pieces */
    uint8_t socket_of[2] = {0, 0};
    for (int family = 0; family < 2; family++)
        if (fd[family] >= 0) {
            socket_of[family] = (uint8_t)rx_options.sockets;
            tx_options.fd[rx_options.sockets] = rx_options.fd[rx_options.sockets] = fd[family];
            tx_options.sockets = ++rx_options.sockets;
        }
    struct udp_rx *rx = NULL;
    struct udp_tx *tx = NULL;
    struct udpring_reason rx_why = {""};
    result = udp_rx_open(&rx, &rx_options, &rx_why);
    if (result < 0) {
        ur_fail(why, result, "%s", rx_why.text);
    } else {
        tx_options.tier = udp_rx_tier(rx);
        result = udp_tx_open(&tx, &tx_options, why);
    }
    if (result < 0) {
        udp_rx_close(rx);
        for (int family = 0; family < 2; family++)
            if (fd[family] >= 0)
                close(fd[family]);
        return result;
    }
    rings_close(plane);
    memcpy(plane->fd, fd, sizeof(fd));
    memcpy(plane->socket_of, socket_of, sizeof(socket_of));
    plane->rx = rx;
    plane->tx = tx;
    plane->fwmark = fwmark;
    plane->watching_tun = plane->watching_wake = plane->watching_writable = false;
    snprintf(plane->tier_reason, sizeof(plane->tier_reason), "%s", udp_rx_tier_reason(rx));
    __atomic_store_n(&plane->port, *port, __ATOMIC_RELEASE);
    return 0;
}

static int watch(struct udpring_plane *plane)
{
    if (!plane->watching_wake) {
        int result = udp_rx_watch(plane->rx, plane->wake_fd, POLLIN, TOKEN_WAKE);
        if (result < 0)
            return result;
        plane->watching_wake = true;
    }
    /* Not while slots are out: the TUN device then waits, and its queue pushes back. */
    if (!plane->watching_tun && !plane->tun_ready && !plane->tun_gone) {
        int result = udp_rx_watch(plane->rx, plane->tun.fd, POLLIN, TOKEN_TUN);
        if (result < 0)
            return result;
        plane->watching_tun = true;
    }
    int parked = udp_tx_parked(plane->tx);
    if (!plane->watching_writable && parked >= 0) {
        int result = udp_rx_watch(plane->rx, parked, POLLOUT, TOKEN_WRITABLE);
        if (result < 0)
            return result;
        plane->watching_writable = true;
    }
    return 0;
}

static void see_watched(struct udpring_plane *plane)
{
    uint32_t fired = udp_rx_watched(plane->rx);
    if (fired & 1u << TOKEN_WAKE) {
        uint64_t count;
        plane->watching_wake = false;
        if (read(plane->wake_fd, &count, sizeof(count)) < 0)
            count = 0;   /* another pass took it; the list of commands is what counts */
    }
    if (fired & 1u << TOKEN_TUN) {
        plane->watching_tun = false;
        plane->tun_ready = true;
    }
    if (fired & 1u << TOKEN_WRITABLE)
        plane->watching_writable = false;
}

static void inbound_pass(struct udpring_plane *plane)
{
    struct udpring_packet packets[RX_BATCH];
    unsigned count = udp_rx_harvest(plane->rx, packets, RX_BATCH);
    for (unsigned i = 0; i < count; i++)
        inbound_packet(plane, &packets[i]);
    coalesce_flush(&plane->coalescer);
    for (unsigned i = 0; i < count; i++)
        udp_rx_release(plane->rx, packets[i].slot);
    plane->more_inbound = count == RX_BATCH;
}

/* More to do without waiting: the TUN device may hold more and there is room for it, or the receive side does. */
static bool busy(const struct udpring_plane *plane)
{
    return plane->more_inbound || (plane->tun_ready && plane->out_free_count > OUT_SLOTS_RESERVED) ||
           (plane->kicked_count && plane->out_free_count);
}

static int pass(struct udpring_plane *plane)
{
    int result = watch(plane);
    if (result < 0)
        return result;
    result = udp_rx_wait(plane->rx, busy(plane) ? 0 : -1);
    if (result < 0 && result != -ETIME && result != -EINTR)
        return result;
    plane->now = ur_clock_ns(CLOCK_BOOTTIME);
    plane->stats.passes++;
    see_watched(plane);
    inbound_pass(plane);
    see_watched(plane);
    plane_run_commands(plane);
    if (plane->quit)
        return 0;
    outbound_kicked(plane);
    outbound_pass(plane);
    outbound_close_train(plane);    /* of commands and staged packets, when the device had nothing */
    result = udp_tx_flush(plane->tx);
    outbound_reap(plane);
    return result;
}

/* The worker cannot go on, but whoever asks it still gets an answer, until it is told to quit. */
static void serve_commands_only(struct udpring_plane *plane)
{
    while (!plane->quit) {
        struct pollfd wake = {.fd = plane->wake_fd, .events = POLLIN};
        poll(&wake, 1, -1);
        uint64_t count;
        if (read(plane->wake_fd, &count, sizeof(count)) < 0)
            count = 0;
        plane->now = ur_clock_ns(CLOCK_BOOTTIME);
        plane_run_commands(plane);
    }
}

void *worker_main(void *argument)
{
    struct udpring_plane *plane = argument;
    prctl(PR_SET_NAME, "udpring-worker");
    plane->now = ur_clock_ns(CLOCK_BOOTTIME);
    uint16_t port = plane->options.listen_port;
    int result = worker_bind(plane, &port, plane->options.fwmark, &plane->start_reason);
    pthread_mutex_lock(&plane->command_lock);
    plane->started = true;
    plane->start_result = result;
    pthread_cond_broadcast(&plane->command_done);
    pthread_mutex_unlock(&plane->command_lock);
    if (result < 0)
        return NULL;
    plane->tun_ready = true;
    while (!plane->quit) {
        result = pass(plane);
        if (result < 0) {
            plane_post(plane, UDPRING_EVENT_FATAL, UDPRING_PEER_NONE, result);
            serve_commands_only(plane);
        }
    }
    rings_close(plane);
    return NULL;
}
