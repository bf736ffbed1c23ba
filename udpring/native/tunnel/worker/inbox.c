/* In, the part before inbound.c: which datagrams and trains of the receive ring are handled now.
 *
 * A bulk transfer that comes faster than it is handled leaves a backlog. A pass handles INBOX_BYTES of it in steps of INBOX_STEP, so
 * that the other direction has its turn. After each step it takes what has arrived meanwhile. Small messages behind a
 * backlog are opened at once: those that may pass the others are delivered (inbound_early), and end the pass, because an
 * answer often follows. */
#include "inbox.h"

#include <sched.h>

#include "inbound.h"

/* The delivered packets are written first, so that the reader finds them. */
static void yield_if_due(struct worker *worker)
{
    if (ur_likely(!pacing_due(&worker->pacing, worker->now, worker->datagrams_out)))
        return;
    coalesce_flush(&worker->coalescer);
    uint64_t began = ur_clock_ns(CLOCK_BOOTTIME);
    sched_yield();
    worker->stats.yields++;
    pacing_gave_way(&worker->pacing, began, ur_clock_ns(CLOCK_BOOTTIME));
}

/* Takes what has arrived. Whether a message was delivered before its turn. */
static bool take(struct worker *worker)
{
    struct inbox *inbox = &worker->inbox;
    unsigned room = RX_BATCH - inbox->count;
    unsigned got = room ? udp_rx_harvest(worker->rx, inbox->packet + inbox->count, room) : 0;
    bool early = false;
    inbox->more = got == room;
    for (unsigned end = inbox->count + got; inbox->count < end; inbox->count++) {
        struct udpring_packet *packet = &inbox->packet[inbox->count];
        if (ur_unlikely(inbox->bytes >= INBOX_AHEAD) && !packet->segment_size && packet->length <= INBOX_EARLY &&
            inbound_early(worker, packet)) {
            packet->data = NULL;
            early = true;
            continue;
        }
        inbox->bytes += packet->length;
    }
    return early;
}

static uint32_t handle(struct worker *worker, uint32_t most)
{
    struct inbox *inbox = &worker->inbox;
    uint32_t bytes = 0;
    for (; inbox->first < inbox->count && bytes < most; inbox->first++) {
        struct udpring_packet *packet = &inbox->packet[inbox->first];
        if (ur_unlikely(!packet->data))
            continue;
        uint64_t datagrams = worker->datagrams_out;
        bytes += packet->length;
        inbound_packet(worker, packet, &worker->strays);
        if (worker->datagrams_out != datagrams) {
            worker->datagram_buffers++;
            yield_if_due(worker);
        }
    }
    inbox->bytes -= bytes;
    return bytes;
}

/* Gives back the buffers of what was handled. */
static void finish(struct worker *worker)
{
    struct inbox *inbox = &worker->inbox;
    inbound_flush(worker);
    for (unsigned i = 0; i < inbox->first; i++)
        udp_rx_release(worker->rx, inbox->packet[i].slot);
    inbox->count -= inbox->first;
    if (ur_unlikely(inbox->count))
        memmove(inbox->packet, inbox->packet + inbox->first, inbox->count * sizeof(*inbox->packet));
    inbox->first = 0;
}

void inbox_pass(struct worker *worker)
{
    const struct inbox *inbox = &worker->inbox;
    bool early = take(worker);
    uint32_t bytes = handle(worker, INBOX_STEP);
    /* Behind a backlog: what comes meanwhile may pass it. */
    while (!early && inbox->first < inbox->count && bytes < INBOX_BYTES) {
        (void)udp_rx_wait(worker->rx, 0);   /* the wait of the next pass reports a failure */
        early = take(worker);
        bytes += handle(worker, INBOX_STEP);
    }
    finish(worker);
}

void inbox_drain(struct worker *worker)
{
    (void)handle(worker, UINT32_MAX);
    finish(worker);
    worker->inbox.more = false;
}
