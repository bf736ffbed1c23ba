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

/* After a datagram or train. `datagrams`: delivered before it. */
static inline void handled(struct worker *worker, uint64_t datagrams)
{
    if (worker->datagrams_out != datagrams) {
        worker->datagram_buffers++;
        yield_if_due(worker);
    }
}

static void handle(struct worker *worker, uint32_t most)
{
    struct inbox *inbox = &worker->inbox;
    for (uint32_t bytes = 0; inbox->first < inbox->count && bytes < most; inbox->first++) {
        struct udpring_packet *packet = &inbox->packet[inbox->first];
        uint64_t datagrams = worker->datagrams_out;
        bytes += packet->length;
        inbound_packet(worker, packet, &worker->strays);
        handled(worker, datagrams);
    }
}

/* The same with help: trains are jobs, whose messages the worker then handles in order. */
static UR_NOINLINE void handle_spread(struct worker *worker)
{
    struct inbox *inbox = &worker->inbox;
    struct spread *spread = worker->spread;
    bool is_job[RX_BATCH];
    unsigned end = inbox->first;
    for (uint32_t bytes = 0; end < inbox->count && bytes < SPREAD_BATCH_BYTES; end++) {
        bytes += inbox->packet[end].length;
        is_job[end] = inbound_spread(worker, &inbox->packet[end]);
    }
    for (; inbox->first < end; inbox->first++) {
        struct udpring_packet *packet = &inbox->packet[inbox->first];
        uint64_t datagrams = worker->datagrams_out;
        bool job = is_job[inbox->first];
        if (job && !spread_take_back(spread, spread->done)) {
            spread_finish(worker, spread->done);
            inbound_opened(worker, packet, &spread->job[spread->done], &worker->strays);
        } else {
            inbound_packet(worker, packet, &worker->strays);
        }
        spread->done += job;
        handled(worker, datagrams);
    }
    spread->used = spread->done = 0;
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
    if (ur_unlikely(worker->spread_on))
        handle_spread(worker);
    else
        handle(worker, INBOX_BYTES);
    finish(worker);
}

void inbox_drain(struct worker *worker)
{
    handle(worker, UINT32_MAX);
    finish(worker);
    worker->inbox.more = false;
}
