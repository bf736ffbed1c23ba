/* A worker's rings and the memory of its packets: opened, adopted, closed. */
#include "rings.h"

#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../uring/graveyard.h"

#include "handshakes.h"
#include "histogram.h"
#include "inbox.h"
#include "seal.h"

static void count_batch(struct udpring_histogram *batches, uint64_t before, uint64_t now)
{
    if (now != before)
        histogram_count(batches, now - before);
}

void worker_see_counters(struct worker *worker)
{
    if (worker->rx) {
        const struct udpring_rx_stats *now = udp_rx_stats(worker->rx);
        count_batch(&worker->stats.receive_batches, worker->rx_seen.packets, now->packets);
        worker->rx_seen = *now;
    }
    if (worker->tx) {
        const struct udpring_tx_stats *now = udp_tx_stats(worker->tx);
        count_batch(&worker->stats.send_batches, worker->tx_seen.packets, now->packets);
        worker->tx_seen = *now;
    }
    handshakes_see_counters(&worker->handshakes);
}

/* Waits a bounded time for sends in flight, so that their slots come back before the ring goes. */
static void drain_sends(struct worker *worker)
{
    uint64_t until = ur_clock_ns(CLOCK_MONOTONIC) + DRAIN_NS;
    seal_close_train(worker);
    while (udp_tx_pending(worker->tx) && ur_clock_ns(CLOCK_MONOTONIC) < until) {
        int flushed = udp_tx_flush(worker->tx);
        seal_reap(worker);
        int fd = udp_tx_parked(worker->tx);
        if (fd >= 0) {
            struct pollfd writable = {.fd = fd, .events = POLLOUT};
            poll(&writable, 1, 20);
        } else if (flushed < 0 || udp_tx_stalled(worker->tx)) {
            struct timespec pause = {.tv_nsec = SHORTAGE_PAUSE_NS};
            nanosleep(&pause, NULL);
        }
    }
    udp_tx_abandon(worker->tx, -ECANCELED);   /* counts the packets that the sockets never took */
    seal_reap(worker);
}

static void slots_reset(struct worker *worker)
{
    worker->out_free_count = 0;
    for (uint32_t slot = 0; slot < OUT_SLOTS; slot++) {
        worker->out[slot].in_flight = 0;
        worker->out_free[worker->out_free_count++] = slot;
    }
}

#define WORKER_MEMORY ((size_t)OUT_SLOTS * OUT_SLOT_BYTES)

int worker_memory_open(struct worker *worker)
{
    void *memory = mmap(NULL, WORKER_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    /* A forked child must not share pages that the kernel reads from, and needs none of them. */
    madvise(memory, WORKER_MEMORY, MADV_DONTFORK);
    worker->out_memory = memory;
    worker->train = -1;
    for (uint32_t slot = 0; slot < OUT_SLOTS; slot++)
        worker->out[slot].memory = worker->out_memory + (size_t)slot * OUT_SLOT_BYTES;
    slots_reset(worker);
    return 0;
}

void worker_memory_close(struct worker *worker)
{
    if (worker->out_memory)
        munmap(worker->out_memory, WORKER_MEMORY);
    worker->out_memory = NULL;
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
int worker_rings_close(struct worker *worker)
{
    int result = 0;
    if (worker->rx)
        inbox_drain(worker);   /* before the send ring goes, because a message may be answered */
    if (worker->tx)
        drain_sends(worker);
    worker_see_counters(worker);
    if (worker->tx) {
        counters_add(&worker->tx_before, udp_tx_stats(worker->tx), sizeof(worker->tx_before));
        worker->tx_seen = (struct udpring_tx_stats){0};
        if (udp_tx_close(worker->tx)) {
            slots_reset(worker);   /* the ring holds no slot any more */
        } else {
            ur_graveyard_leak(worker->out_memory, WORKER_MEMORY);
            worker->out_memory = NULL;
            worker->out_free_count = 0;   /* the kernel may still read the old slots: use none of them */
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
    int handshake_fd[2] = {rings->handshakes.fd[0], rings->handshakes.fd[1]};
    int result = handshakes_open(&rings->handshakes, handshake_fd, rx_options.gro, why);
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
    int result = worker->failed = worker_rings_close(worker);
    if (result < 0)
        ur_fail(why, result, "no memory to replace packets that the kernel still holds: %s", strerror(-result));
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
