/* 1. watch: an empty socket is polled once. No receive is armed on it
 * 2. pass: a readable socket is read in batches, and each message is handled like any other (inbound.c)
 * 3. while data flows, reading has a rate limit, far above what the control loop can answer. Beyond the limit nothing is read
 *    and the node is under load. The socket's small buffer then overflows in the kernel, at no cost here
 * 4. a message that passes the look-ups takes a token (admission_pay). Messages that the look-ups drop take none */
#include "handshakes.h"

#include <poll.h>
#include <unistd.h>

#include "admission.h"
#include "inbound.h"
#include "stamps.h"

#define WORD(type) __builtin_bswap32(type)
#define MARKED(type) __builtin_bswap32((type) | WG_MARK_AES_256_GCM)

const struct udp_split handshakes_split = {
    .word = {WORD(WG_TYPE_DATA), MARKED(WG_TYPE_DATA)},
    .words = 2,
    .least = WG_DATA_MIN,
    .separate = {
        {WORD(WG_TYPE_INITIATION), WG_INITIATION_BYTES}, {MARKED(WG_TYPE_INITIATION), WG_INITIATION_BYTES},
        {WORD(WG_TYPE_RESPONSE), WG_RESPONSE_BYTES}, {MARKED(WG_TYPE_RESPONSE), WG_RESPONSE_BYTES},
        {WORD(WG_TYPE_COOKIE_REPLY), WG_COOKIE_REPLY_BYTES}, {MARKED(WG_TYPE_COOKIE_REPLY), WG_COOKIE_REPLY_BYTES},
    },
    .separates = 6,
    .train_least = 2 * WG_DATA_MIN,
    .buffer_bytes = HANDSHAKE_BUFFER_BYTES,
};

int handshakes_open(struct handshakes *handshakes, const int fd[2], bool gro, struct udpring_reason *why)
{
    /* With UDP_GRO as the data sockets have it: the kernel asks any socket of the port whether it may join data. */
    struct udp_rx_options options = {.tier = UDPRING_TIER_MMSG, .slots = HANDSHAKE_BATCH, .slot_bytes = HANDSHAKE_SLOT_BYTES,
                                     .gro = gro, .secret = true};
    *handshakes = (struct handshakes){.fd = {-1, -1}};
    for (int family = 0; family < 2; family++)
        if (fd[family] >= 0)
            options.fd[options.sockets++] = fd[family];
    memcpy(handshakes->fd, fd, sizeof(handshakes->fd));
    return options.sockets ? udp_rx_open(&handshakes->rx, &options, why) : 0;
}

void handshakes_close(struct handshakes *handshakes)
{
    if (handshakes->rx) {
        udp_rx_see_drops(handshakes->rx);
        counters_add(&handshakes->before, udp_rx_stats(handshakes->rx), sizeof(handshakes->before));
        handshakes->seen = (struct udpring_rx_stats){0};
        (void)udp_rx_close(handshakes->rx);
        handshakes->rx = NULL;
    }
    for (int family = 0; family < 2; family++) {
        if (handshakes->fd[family] >= 0)
            close(handshakes->fd[family]);
        handshakes->fd[family] = -1;
    }
}

void handshakes_see_drops(struct handshakes *handshakes)
{
    if (handshakes->rx)
        udp_rx_see_drops(handshakes->rx);
}

void handshakes_see_counters(struct handshakes *handshakes)
{
    if (handshakes->rx)
        handshakes->seen = *udp_rx_stats(handshakes->rx);
}

int handshakes_watch(struct worker *worker)
{
    struct handshakes *handshakes = &worker->handshakes;
    if (!handshakes->rx || handshakes->more)
        return 0;
    for (uint32_t family = 0; family < 2; family++) {
        if (handshakes->watching[family] || handshakes->fd[family] < 0)
            continue;
        int result = udp_rx_watch(worker->rx, handshakes->fd[family], POLLIN, TOKEN_HANDSHAKE4 + family);
        if (result < 0)
            return result;
        handshakes->watching[family] = true;
    }
    return 0;
}

void handshakes_fired(struct handshakes *handshakes, uint32_t tokens)
{
    for (uint32_t family = 0; family < 2; family++)
        if (tokens & 1u << (TOKEN_HANDSHAKE4 + family)) {
            handshakes->watching[family] = false;
            handshakes->more = true;
        }
}

int64_t handshakes_patience(const struct worker *worker)
{
    const struct handshakes *handshakes = &worker->handshakes;
    if (ur_likely(!handshakes->more))
        return -1;
    int64_t looks = rate_lacks(&handshakes->rate, HANDSHAKE_NS, HANDSHAKE_BATCH);
    int64_t reads = rate_lacks(&handshakes->reads, HANDSHAKE_READ_NS, HANDSHAKE_BATCH);
    return looks > reads ? looks : reads;
}

UR_NOINLINE static int read_batch(struct worker *worker)
{
    struct handshakes *handshakes = &worker->handshakes;
    if (!plane_data_flows(worker))
        handshakes->rate.tokens = handshakes->reads.tokens = HANDSHAKE_BURST;
    if (rate_refill(&handshakes->rate, worker->now, HANDSHAKE_NS, HANDSHAKE_BURST) < HANDSHAKE_BATCH) {
        plane_under_load(worker);
        return 0;
    }
    if (rate_refill(&handshakes->reads, worker->now, HANDSHAKE_READ_NS, HANDSHAKE_BURST) < HANDSHAKE_BATCH)
        return 0;
    int result = udp_rx_wait(handshakes->rx, 0);
    if (result < 0 && result != -ETIME && result != -EINTR)
        return result;
    UR_UNINITIALIZED struct udpring_packet packets[HANDSHAKE_BATCH];
    unsigned count = udp_rx_harvest(handshakes->rx, packets, HANDSHAKE_BATCH);
    handshakes->reads.tokens -= count;
    for (unsigned i = 0; i < count; i++)
        inbound_packet(worker, &packets[i], &handshakes->rate);
    inbound_flush(worker);   /* data may have come in a handshake's train */
    for (unsigned i = 0; i < count; i++)
        udp_rx_release(handshakes->rx, packets[i].slot);
    handshakes->more = count == HANDSHAKE_BATCH;
    return 0;
}

int handshakes_pass(struct worker *worker)
{
    return ur_unlikely(worker->handshakes.more) ? read_batch(worker) : 0;
}
