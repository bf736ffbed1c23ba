/* How long a worker pauses so that datagrams gather, like the interrupt moderation of a network card.
 *
 * A worker that is faster than the senders wakes up for every few datagrams, and waking up then costs more than the work. So
 * while datagrams arrive fast but few at a time, the worker pauses for a fraction of a millisecond between two passes. It does
 * not pause after a silence: a datagram alone is never delayed.
 *
 * Each direction counts only packets that a pause can merge: single UDP packets from the TUN device, and received buffers
 * (a datagram or a train) with UDP in them. TCP is not counted: its rate depends on its acknowledgements, and a delay of those
 * costs throughput. Some UDP protocols do the same. When the rate falls because of the pauses, they end for a second.
 *
 * Owner: the worker, one a direction, zero at first. Thread: the worker. Nothing to free. The caller gives the time. */
#ifndef UDPRING_TUNNEL_WORKER_MODERATION_H
#define UDPRING_TUNNEL_WORKER_MODERATION_H
#include "../../base.h"

struct moderation {
    uint64_t window_ns, items, passes;  /* when the window began, and the counters then. 0: none has */
    uint64_t expected;                  /* the rate that waiting must not spoil: the least of the windows before it began */
    uint64_t wait_ns;                   /* 0: not waiting */
    uint64_t not_before_ns;             /* waiting has spoilt a rate: not again until then */
    uint32_t run;                       /* windows in a row that speak for beginning, or for ending */
};

/* Nanoseconds to pause before the next pass, 0 for none. `items` and `passes` only grow. */
uint64_t moderation_wait(struct moderation *moderation, uint64_t now, uint64_t items, uint64_t passes);
#endif
