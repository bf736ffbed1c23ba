/* The worker: a native thread that never takes the GIL and runs each packet to completion (R4). state.h lists its pass. */
#include "worker.h"

#include <poll.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "../../uring/confined.h"

#include "changes.h"
#include "command.h"
#include "deferred.h"
#include "events.h"
#include "gate.h"
#include "handshakes.h"
#include "inbox.h"
#include "outbound.h"
#include "rings.h"
#include "seal.h"
#include "sockets.h"
#include "spread.h"
#include "staged.h"
#include "stamps.h"

static int watch(struct worker *worker)
{
    if (!worker->watching_wake) {
        int result = udp_rx_watch(worker->rx, worker->wake_fd, POLLIN, TOKEN_WAKE);
        if (result < 0)
            return result;
        worker->watching_wake = true;
    }
    /* Not while slots are used up: the queue of the TUN device then pushes back. */
    if (!worker->watching_tun && !worker->tun_ready && !worker->tun_gone) {
        int result = udp_rx_watch(worker->rx, worker->tun.fd, POLLIN, TOKEN_TUN);
        if (result < 0)
            return result;
        worker->watching_tun = true;
    }
    int result = handshakes_watch(worker);
    if (result < 0)
        return result;
    for (uint32_t i = 0; i < 2 && result == 0; i++) {
        if (worker->watching_writable[i] || worker->fd[i] < 0 || !udp_tx_socket_parked(worker->tx, worker->socket_of[i]))
            continue;
        result = udp_rx_watch(worker->rx, worker->fd[i], POLLOUT, TOKEN_WRITABLE4 + i);
        worker->watching_writable[i] = result == 0;
    }
    return result;
}

static void see_watched(struct worker *worker)
{
    uint32_t fired = udp_rx_watched(worker->rx);
    handshakes_fired(&worker->handshakes, fired);
    if (fired & 1u << TOKEN_WAKE) {
        uint64_t count;
        worker->watching_wake = false;
        if (read(worker->wake_fd, &count, sizeof(count)) < 0)
            count = 0;   /* another pass took it. The list of commands is looked at anyway */
    }
    if (fired & 1u << TOKEN_TUN) {
        worker->watching_tun = false;
        worker->tun_ready = true;
        if (worker->port)
            packet_wake_clear(&worker->port->sent);
    }
    for (uint32_t i = 0; i < 2; i++)
        if (fired & 1u << (TOKEN_WRITABLE4 + i))
            worker->watching_writable[i] = false;
}

/* More to do without waiting: the TUN device may hold more and there is room for it, or the receive side does. */
static bool busy(const struct worker *worker)
{
    return inbox_has_work(worker) ||
           worker->shortage.since ||   /* the pause took the wake-up of a command */
           outbound_has_work(worker) ||
           (__atomic_load_n(&worker->ready_first, __ATOMIC_ACQUIRE) && worker->out_free_count) ||
           /* changes that this worker queued itself: nothing else wakes it */
           (worker->number == 0 && __atomic_load_n(&worker->plane->change_count, __ATOMIC_ACQUIRE)) ||
           spread_helps(worker) ||
           plane_deferred_due(worker);
}

/* The work of a pass, between two waits. */
static int work(struct worker *worker)
{
    see_watched(worker);
    inbox_pass(worker);
    see_watched(worker);
    if (worker->number == 0)
        plane_run_changes(worker);   /* before commands: an endpoint that the user sets wins over an earlier packet */
    worker_run_commands(worker);
    if (worker->quit) {
        inbox_drain(worker);   /* while worker 0 cannot change the tables */
        return 0;
    }
    if (ur_unlikely(worker->failed))
        return worker->failed;
    plane_post_deferred(worker);
    staged_send_ready(worker);
    int result = outbound_pass(worker);
    if (!outbound_goes_on(worker))
        seal_close_train(worker);    /* also one of commands and staged packets */
    plane_see_data(worker);
    plane_tell_refusals(worker);
    int read = handshakes_pass(worker), flushed;
    do
        flushed = udp_tx_flush(worker->tx);
    while (seal_reap(worker) && flushed == 0);
    if (ur_unlikely(flushed == 0 && udp_tx_stalled(worker->tx)))
        flushed = -EAGAIN;
    return flushed ? flushed : read ? read : result;
}

/* Pauses so that datagrams gather, if that is worth it. */
static bool pause_if_worth(struct worker *worker)
{
    uint64_t passes = worker->stats.passes;
    uint64_t out = moderation_wait(&worker->out_moderation, worker->now, worker->single_datagrams, passes);
    uint64_t in = moderation_wait(&worker->in_moderation, worker->now, worker->datagram_buffers, passes);
    uint64_t ns = out > in ? out : in;
    if (ur_likely(!ns))
        return false;
    struct timespec pause = {.tv_nsec = (long)ns};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    return true;
}

/* Sets weight and time slice by the worker's load. */
static void weigh(struct worker *worker)
{
    struct weight *weight = &worker->plane->weight;
    bool many = level_high(&worker->datagram_rate, worker->now, worker->single_datagrams + worker->datagrams_out, DATAGRAMS_MANY);
    uint64_t bytes = worker->stats.tun_bytes_in + worker->stats.tun_bytes_out;
    bool bulk = level_high(&worker->bulk_rate, worker->now, bytes, BULK_BYTES);
    many |= worker->out_moderation.wait_ns || worker->in_moderation.wait_ns;
    bool alone = bulk && worker->flows && worker->now >= __atomic_load_n(&weight->sparse_until_ns, __ATOMIC_RELAXED);
    bool fast = level_high(&worker->charge_rate, worker->now, worker->charge, time_slice_socket_rate(&worker->time_slice));
    time_slice_set(&worker->time_slice, !many && !alone, (many || alone) && !fast);
    weight_see(weight, &worker->weight, many || alone, worker->now);
}

/* How long the worker may wait: 0 not at all, negative for ever. */
static int64_t patience(const struct worker *worker)
{
    int64_t handshakes = handshakes_patience(worker), weight = weight_patience(&worker->plane->weight, &worker->weight);
    return handshakes < 0 || (weight >= 0 && weight < handshakes) ? weight : handshakes;
}

/* Waits until there is work. After a shortage (shortage.h) the pass still runs. */
static int wait(struct worker *worker, bool *paused)
{
    int result = watch(worker);
    if (ur_unlikely(result < 0))
        return result;
    weigh(worker);
    *paused = !busy(worker) && pause_if_worth(worker);
    bool sleeps = !busy(worker);
    if (worker->spread && sleeps)
        spread_sleep(worker);
    result = udp_rx_wait(worker->rx, sleeps ? patience(worker) : 0);
    if (worker->spread && sleeps)
        spread_wake(worker);
    return result == -ETIME || result == -EINTR ? 0 : result;
}

static int pass(struct worker *worker)
{
    bool paused = false;
    int waited = wait(worker, &paused);
    if (ur_unlikely(waited < 0 && !shortage_is(waited)))
        return waited;
    exclusive_enter(worker);
    worker->now = ur_clock_ns(CLOCK_BOOTTIME);
    worker->stats.passes++;
    worker->stats.pauses += paused;
    int result = work(worker);
    if (ur_likely(result == 0))
        result = waited ? waited : udp_rx_short(worker->rx) ? -EAGAIN : 0;
    if (worker->spread)
        spread_see(worker);
    if (spread_helps(worker))
        spread_help(worker);
    bool again = ur_unlikely(result) && shortage_is(result) && !worker->failed;
    worker->stats.shortages += again;
    worker_see_counters(worker);
    exclusive_leave(worker);
    if (ur_unlikely(again))
        return worker->quit ? 0 : shortage_pause(&worker->shortage, result, worker->wake_fd);
    worker->shortage.since = 0;
    return result;
}

/* The worker cannot move packets any more, but it answers commands until it is closed. */
static void serve_commands_only(struct worker *worker)
{
    for (;;) {
        worker->now = ur_clock_ns(CLOCK_BOOTTIME);
        exclusive_enter(worker);       /* a command may close rings, whose queues the statistics read */
        worker_run_commands(worker);   /* before the first wait, too: a pause in a shortage may have taken the wake-up */
        exclusive_leave(worker);
        if (worker->quit)
            return;
        struct pollfd wake = {.fd = worker->wake_fd, .events = POLLIN};
        struct timespec pause = {.tv_nsec = SHORTAGE_PAUSE_NS};
        if (poll(&wake, 1, -1) < 0)
            clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);   /* short of memory: look all the same, a little later */
        uint64_t count;
        if (read(worker->wake_fd, &count, sizeof(count)) < 0)
            count = 0;
    }
}

/* Opens and closes rings as a new listen port will need them. The thread keeps them. */
static int keep_spare_rings(struct worker *worker)
{
    struct worker_rings spare = {.fd = {-1, -1}, .handshakes.fd = {-1, -1}};
    for (int family = 0; family < 2; family++)
        if (worker->fd[family] >= 0 && (spare.fd[family] = dup(worker->fd[family])) < 0) {
            int error = errno;
            worker_rings_discard(&spare);
            return ur_fail(&worker->start_reason, -error, "no descriptor for spare rings (dup): %s", strerror(error));
        }
    int result = worker_rings_open(worker, &spare, &worker->start_reason);
    worker_rings_discard(&spare);
    return result;
}

static int set_up(struct worker *worker)
{
    struct udpring_plane *plane = worker->plane;
    bool confined = plane->options.flags & UDPRING_PLANE_CONFINED;
    int result = confined ? ur_confine_thread() : 0;
    if (result < 0)
        return ur_fail(&worker->start_reason, result, "no memory to keep rings");
    (void)time_slice_socket_rate(&worker->time_slice);    /* asked now: a confined node may not ask later */
    if (worker->number == 0) {
        uint16_t port = plane->options.listen_port;
        if (udp_split_works(&handshakes_split, &plane->sharing_reason) == 0)
            *plane->sharing_reason.text = 0;
        result = plane_open_sockets(plane, plane->group, plane->group_handshakes, &port, plane->options.fwmark,
                                    &worker->start_reason);
        if (result < 0)
            return result;
        plane->fwmark = plane->options.fwmark;
        __atomic_store_n(&plane->port, port, __ATOMIC_RELEASE);
    }
    struct worker_rings rings = {.fd = {plane->group[worker->number][0], plane->group[worker->number][1]},
                                 /* worker 0 comes first, and takes them */
                                 .handshakes.fd = {plane->group_handshakes[0], plane->group_handshakes[1]}};
    plane->group[worker->number][0] = plane->group[worker->number][1] = -1;
    plane->group_handshakes[0] = plane->group_handshakes[1] = -1;
    result = worker_rings_open(worker, &rings, &worker->start_reason);
    if (result < 0) {
        worker_rings_discard(&rings);
        return result;
    }
    result = worker_adopt(worker, &rings, &worker->start_reason);
    if (result == 0 && confined)
        result = keep_spare_rings(worker);
    if (result < 0)
        return result;
    if (worker->number == 0)
        plane_see_binding(plane);
    if (worker->number == 0)
        snprintf(plane->tier_reason, sizeof(plane->tier_reason), "%s", udp_rx_tier_reason(worker->rx));
    /* A library may keep something a thread (aead_ipsecmb.c): made here, so that no packet has to. */
    struct aead_key *first = NULL;
    const uint8_t zero[AEAD_KEY_BYTES] = {0};
    for (int cipher = 0; cipher < UDPRING_CIPHER_COUNT; cipher++) {
        const struct aead_impl *aead = aead_chosen((enum udpring_cipher)cipher);
        if (!aead)
            continue;    /* not on this host, and no peer's */
        result = aead->key_new(&first, zero, true);
        if (result < 0)
            return ur_fail(&worker->start_reason, result, "%s in a worker thread: %s", aead->name, strerror(-result));
        aead->key_free(first);
    }
    return 0;
}

void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct udpring_plane *plane = worker->plane;
    prctl(PR_SET_NAME, "udpring-worker");
    prctl(PR_SET_TIMERSLACK, 1ul);   /* the default of 50 us would lengthen the short pauses */
    worker->now = ur_clock_ns(CLOCK_BOOTTIME);
    int result = set_up(worker);
    pthread_mutex_lock(&plane->command_lock);
    worker->started = true;
    worker->start_result = result;
    pthread_cond_broadcast(&plane->command_done);
    pthread_mutex_unlock(&plane->command_lock);
    worker->tun_ready = true;
    while (result == 0 && !worker->quit) {
        int passed = pass(worker);
        if (passed < 0) {
            spread_stop_helping(worker);
            exclusive_enter(worker);   /* counters are read only while workers are stopped */
            inbox_drain(worker);
            plane_post_end(worker, UDPRING_EVENT_FATAL, passed);
            exclusive_leave(worker);
            serve_commands_only(worker);
        }
    }
    worker->quit = true;
    spread_stop_helping(worker);
    (void)worker_rings_close(worker);
    ur_unconfine_thread();
    return NULL;
}
