/* The worker: one native thread that never takes the GIL and runs each packet to completion (R4). plane.h has its pass. */
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "../uring/graveyard.h"
#include "plane.h"

/* Counter structs hold nothing but uint64_t. */
void counters_add(void *into, const void *from, size_t bytes)
{
    uint64_t *sum = into;
    const uint64_t *more = from;
    for (size_t i = 0; i < bytes / sizeof(*sum); i++)
        sum[i] += more[i];
}

void worker_see_counters(struct worker *worker)
{
    if (worker->rx)
        worker->rx_seen = *udp_rx_stats(worker->rx);
    if (worker->tx)
        worker->tx_seen = *udp_tx_stats(worker->tx);
    handshakes_see_counters(&worker->handshakes);
}

/* Waits a bounded time for sends in flight, so that their slots come back before the ring goes. */
static void drain_sends(struct worker *worker)
{
    uint64_t until = ur_clock_ns(CLOCK_MONOTONIC) + DRAIN_NS;
    outbound_close_train(worker);
    while (udp_tx_pending(worker->tx) && ur_clock_ns(CLOCK_MONOTONIC) < until) {
        int flushed = udp_tx_flush(worker->tx);
        outbound_reap(worker);
        int fd = udp_tx_parked(worker->tx);
        if (fd >= 0) {
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            poll(&writable, 1, 20);
        } else if (flushed < 0 || udp_tx_stalled(worker->tx)) {
            struct timespec pause = {.tv_nsec = SHORTAGE_PAUSE_NS};
            nanosleep(&pause, NULL);
        }
    }
    udp_tx_abandon(worker->tx, -ECANCELED);   /* what the sockets never took: counted */
    outbound_reap(worker);
}

static void slots_reset(struct worker *worker)
{
    worker->out_free_count = 0;
    for (uint32_t slot = 0; slot < OUT_SLOTS; slot++) {
        worker->out[slot].in_flight = 0;
        worker->out_free[worker->out_free_count++] = slot;
    }
}

/* Room before and behind the packet that is read: for its vnet header, and for padding. */
#define TUN_MEMORY (4096 + OUT_SLOT_BYTES)
#define WORKER_MEMORY (TUN_MEMORY + (size_t)OUT_SLOTS * OUT_SLOT_BYTES)

int worker_memory_open(struct worker *worker)
{
    void *memory = mmap(NULL, WORKER_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    /* A forked child must not share pages that the kernel reads from; nor does it need them. */
    madvise(memory, WORKER_MEMORY, MADV_DONTFORK);
    worker->tun_memory = memory;
    worker->tun_packet = worker->tun_memory + 4096;
    worker->out_memory = worker->tun_memory + TUN_MEMORY;
    worker->train = -1;
    for (uint32_t slot = 0; slot < OUT_SLOTS; slot++)
        worker->out[slot].memory = worker->out_memory + (size_t)slot * OUT_SLOT_BYTES;
    slots_reset(worker);
    return 0;
}

void worker_memory_close(struct worker *worker)
{
    if (worker->tun_memory)
        munmap(worker->tun_memory, WORKER_MEMORY);
    worker->tun_memory = NULL;
}

static void close_pair(int fd[2])
{
    for (int family = 0; family < 2; family++) {
        if (fd[family] >= 0)
            close(fd[family]);
        fd[family] = -1;
    }
}

/* 0, or -ENOMEM: sends did not end, their memory is the kernel's for ever (R5), and there is none to replace it. */
static int rings_close(struct worker *worker)
{
    int result = 0;
    if (worker->tx) {
        drain_sends(worker);
        counters_add(&worker->tx_before, udp_tx_stats(worker->tx), sizeof(worker->tx_before));
        worker->tx_seen = (struct udpring_tx_stats){0};
        if (udp_tx_close(worker->tx)) {
            slots_reset(worker);   /* whatever the ring still held is ours again */
        } else {
            ur_graveyard_leak(worker->tun_memory, WORKER_MEMORY);
            worker->tun_memory = NULL;
            worker->out_free_count = 0;   /* nobody writes to what the kernel may still read */
            worker->train = -1;
            result = worker->quit ? 0 : worker_memory_open(worker);
        }
        worker->tx = NULL;
    }
    if (worker->rx) {
        counters_add(&worker->rx_before, udp_rx_stats(worker->rx), sizeof(worker->rx_before));
        worker->rx_seen = (struct udpring_rx_stats){0};
        udp_rx_close(worker->rx);
        worker->rx = NULL;
    }
    close_pair(worker->fd);
    handshakes_close(&worker->handshakes);
    return result;
}

int worker_rings_open(struct worker *worker, struct worker_rings *rings, struct udpring_reason *why)
{
    struct udpring_plane *plane = worker->plane;
    struct udp_rx_options rx_options = {.tier = plane->options.tier, .slots = plane->options.slots, .secret = true,
                                        .gro = !(plane->options.flags & UDPRING_PLANE_NO_UDP_OFFLOAD)};
    struct udp_tx_options tx_options = {.slots = OUT_SLOTS * 2};   /* a refused train is sent again in pieces */
    for (int family = 0; family < 2; family++)
        if (rings->fd[family] >= 0) {
            rings->socket_of[family] = (uint8_t)rx_options.sockets;
            tx_options.fd[rx_options.sockets] = rx_options.fd[rx_options.sockets] = rings->fd[family];
            tx_options.sockets = ++rx_options.sockets;
        }
    int apart[2] = {rings->handshakes.fd[0], rings->handshakes.fd[1]};
    int result = handshakes_open(&rings->handshakes, apart, rx_options.gro, why);
    if (result == 0)
        result = udp_rx_open(&rings->rx, &rx_options, why);
    if (result == 0) {
        tx_options.tier = udp_rx_tier(rings->rx);
        result = udp_tx_open(&rings->tx, &tx_options, why);
    }
    return result;
}

void worker_rings_discard(struct worker_rings *rings)
{
    (void)udp_tx_close(rings->tx);   /* nothing was pushed */
    (void)udp_rx_close(rings->rx);
    handshakes_close(&rings->handshakes);
    close_pair(rings->fd);
}

int worker_adopt(struct worker *worker, const struct worker_rings *rings, struct udpring_reason *why)
{
    int result = worker->failed = rings_close(worker);
    if (result < 0)
        ur_fail(why, result, "no memory for packets in place of what the kernel has not given back: %s", strerror(-result));
    struct udpring_rx_stats before = worker->handshakes.before;
    worker->handshakes = rings->handshakes;
    worker->handshakes.before = before;
    memcpy(worker->fd, rings->fd, sizeof(worker->fd));
    memcpy(worker->socket_of, rings->socket_of, sizeof(worker->socket_of));
    worker->rx = rings->rx;
    worker->tx = rings->tx;
    worker->watching_tun = worker->watching_wake = worker->watching_writable[0] = worker->watching_writable[1] = false;
    return result;
}

static int watch(struct worker *worker)
{
    if (!worker->watching_wake) {
        int result = udp_rx_watch(worker->rx, worker->wake_fd, POLLIN, TOKEN_WAKE);
        if (result < 0)
            return result;
        worker->watching_wake = true;
    }
    /* Not while slots are out: the TUN device then waits, and its queue pushes back. */
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
            count = 0;   /* another pass took it; the list of commands is what counts */
    }
    if (fired & 1u << TOKEN_TUN) {
        worker->watching_tun = false;
        worker->tun_ready = true;
    }
    for (uint32_t i = 0; i < 2; i++)
        if (fired & 1u << (TOKEN_WRITABLE4 + i))
            worker->watching_writable[i] = false;
}

/* After what was delivered is there to be read. */
static void perhaps_give_way(struct worker *worker)
{
    if (ur_likely(!pacing_due(&worker->pacing, worker->now, worker->datagrams_out)))
        return;
    coalesce_flush(&worker->coalescer);
    uint64_t began = ur_clock_ns(CLOCK_BOOTTIME);
    sched_yield();
    worker->stats.yields++;
    pacing_gave_way(&worker->pacing, began, ur_clock_ns(CLOCK_BOOTTIME));
}

static void inbound_pass(struct worker *worker)
{
    UR_UNINITIALIZED struct udpring_packet packets[RX_BATCH];
    unsigned count = udp_rx_harvest(worker->rx, packets, RX_BATCH);
    for (unsigned i = 0; i < count; i++) {
        uint64_t datagrams = worker->datagrams_out;
        inbound_packet(worker, &packets[i], &worker->strays);
        if (worker->datagrams_out != datagrams) {
            worker->datagram_buffers++;
            perhaps_give_way(worker);
        }
    }
    coalesce_flush(&worker->coalescer);
    for (unsigned i = 0; i < count; i++)
        udp_rx_release(worker->rx, packets[i].slot);
    worker->more_inbound = count == RX_BATCH;
}

/* More to do without waiting: the TUN device may hold more and there is room for it, or the receive side does. */
static bool busy(const struct worker *worker)
{
    return worker->more_inbound ||
           worker->shortage.since ||   /* the pause took the wake-up of a command */
           (worker->tun_ready && outbound_has_room(worker)) ||
           (__atomic_load_n(&worker->kicked_first, __ATOMIC_ACQUIRE) && worker->out_free_count) ||
           /* asked for by ourselves since they were made last: nobody has woken us, nor will */
           (worker->number == 0 && __atomic_load_n(&worker->plane->change_count, __ATOMIC_ACQUIRE)) ||
           plane_unheard_due(worker);
}

/* What a pass does between two waits. */
static int work(struct worker *worker)
{
    see_watched(worker);
    inbound_pass(worker);
    see_watched(worker);
    worker_run_commands(worker);
    if (worker->quit)
        return 0;
    if (ur_unlikely(worker->failed))
        return worker->failed;
    if (worker->number == 0)
        plane_run_changes(worker);
    plane_post_unheard(worker);
    staged_kicked(worker);
    int result = outbound_pass(worker);
    outbound_close_train(worker);    /* of commands and staged packets, when the device had nothing */
    plane_see_data(worker);
    plane_tell_refusals(worker);
    int read = handshakes_pass(worker), flushed;
    do
        flushed = udp_tx_flush(worker->tx);
    while (outbound_reap(worker) && flushed == 0);
    if (ur_unlikely(flushed == 0 && udp_tx_stalled(worker->tx)))
        flushed = -EAGAIN;
    return flushed ? flushed : read ? read : result;
}

/* Lets datagrams gather, if that is worth it. Whatever comes meanwhile is there when the pass begins. */
static bool perhaps_rest(struct worker *worker)
{
    uint64_t passes = worker->stats.passes;
    uint64_t out = moderation_wait(&worker->out_moderation, worker->now, worker->single_datagrams, passes);
    uint64_t in = moderation_wait(&worker->in_moderation, worker->now, worker->datagram_buffers, passes);
    uint64_t ns = out > in ? out : in;
    if (ur_likely(!ns))
        return false;
    struct timespec rest = {.tv_nsec = (long)ns};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, NULL);
    return true;
}

/* Until there is something to do. A shortage is told (shortage.h), and no reason to leave out the rest of the pass. */
static int wait(struct worker *worker, bool *rested)
{
    int result = watch(worker);
    if (ur_unlikely(result < 0))
        return result;
    *rested = !busy(worker) && perhaps_rest(worker);
    result = udp_rx_wait(worker->rx, busy(worker) ? 0 : handshakes_patience(worker));
    return result == -ETIME || result == -EINTR ? 0 : result;
}

static int pass(struct worker *worker)
{
    bool rested = false;
    int waited = wait(worker, &rested);
    if (ur_unlikely(waited < 0 && !shortage_is(waited)))
        return waited;
    exclusive_enter(worker);
    worker->now = ur_clock_ns(CLOCK_BOOTTIME);
    worker->stats.passes++;
    worker->stats.rests += rested;
    int result = work(worker);
    if (ur_likely(result == 0))
        result = waited ? waited : udp_rx_short(worker->rx) ? -EAGAIN : 0;
    bool again = ur_unlikely(result) && shortage_is(result) && !worker->failed;
    worker->stats.shortages += again;
    worker_see_counters(worker);
    exclusive_leave(worker);
    if (ur_unlikely(again))
        return worker->quit ? 0 : shortage_pause(&worker->shortage, result, worker->wake_fd);
    worker->shortage.since = 0;
    return result;
}

/* The worker cannot go on, but whoever asks it still gets an answer, until it is told to quit. */
static void serve_commands_only(struct worker *worker)
{
    while (!worker->quit) {
        struct pollfd wake = {.fd = worker->wake_fd, .events = POLLIN};
        struct timespec pause = {.tv_nsec = SHORTAGE_PAUSE_NS};
        if (poll(&wake, 1, -1) < 0)
            clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);   /* short of memory: look all the same, a little later */
        uint64_t count;
        if (read(worker->wake_fd, &count, sizeof(count)) < 0)
            count = 0;
        worker->now = ur_clock_ns(CLOCK_BOOTTIME);
        worker_run_commands(worker);
    }
}

static int set_up(struct worker *worker)
{
    struct udpring_plane *plane = worker->plane;
    int result = 0;
    if (worker->number == 0) {
        uint16_t port = plane->options.listen_port;
        if (udp_split_works(&handshakes_split, &plane->sharing_reason) == 0)
            *plane->sharing_reason.text = 0;
        result = plane_open_sockets(plane, plane->group, plane->group_apart, &port, plane->options.fwmark,
                                    &worker->start_reason);
        if (result < 0)
            return result;
        plane->fwmark = plane->options.fwmark;
        __atomic_store_n(&plane->port, port, __ATOMIC_RELEASE);
    }
    struct worker_rings rings = {.fd = {plane->group[worker->number][0], plane->group[worker->number][1]},
                                 /* worker 0 comes first, and takes them */
                                 .handshakes.fd = {plane->group_apart[0], plane->group_apart[1]}};
    plane->group[worker->number][0] = plane->group[worker->number][1] = -1;
    plane->group_apart[0] = plane->group_apart[1] = -1;
    result = worker_rings_open(worker, &rings, &worker->start_reason);
    if (result < 0) {
        worker_rings_discard(&rings);
        return result;
    }
    result = worker_adopt(worker, &rings, &worker->start_reason);
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
    prctl(PR_SET_TIMERSLACK, 1ul);   /* rests are short: not 50 us longer each */
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
            exclusive_enter(worker);   /* whoever reads counters does so while workers stand */
            plane_post_end(worker, UDPRING_EVENT_FATAL, passed);
            exclusive_leave(worker);
            serve_commands_only(worker);
        }
    }
    worker->quit = true;
    (void)rings_close(worker);
    return NULL;
}
