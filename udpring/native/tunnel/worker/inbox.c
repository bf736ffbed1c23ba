/* In, the part before inbound.c: which datagrams and trains of the receive ring are handled now.
 *
 * A bulk transfer that comes faster than it is handled leaves a backlog. A pass handles INBOX_BYTES of it, so that the other direction
 * has its turn. */
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

static void take(struct worker *worker)
{
    struct inbox *inbox = &worker->inbox;
    unsigned room = RX_BATCH - inbox->count;
    unsigned got = room ? udp_rx_harvest(worker->rx, inbox->packet + inbox->count, room) : 0;
    inbox->more = got == room;
    inbox->count += got;
}

static void handle(struct worker *worker, uint32_t most)
{
    struct inbox *inbox = &worker->inbox;
    for (uint32_t bytes = 0; inbox->first < inbox->count && bytes < most; inbox->first++) {
        struct udpring_packet *packet = &inbox->packet[inbox->first];
        uint64_t datagrams = worker->datagrams_out;
        bytes += packet->length;
        inbound_packet(worker, packet, &worker->strays);
        if (worker->datagrams_out != datagrams) {
            worker->datagram_buffers++;
            yield_if_due(worker);
        }
    }
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
    take(worker);
    handle(worker, INBOX_BYTES);
    finish(worker);
}

void inbox_drain(struct worker *worker)
{
    handle(worker, UINT32_MAX);
    finish(worker);
    worker->inbox.more = false;
}
