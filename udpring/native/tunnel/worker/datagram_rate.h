/* Whether a worker handles many datagrams: UDP packets that come one by one or in trains, both directions together.
 *
 * Then it wakes for fewer of them the sooner it gets the CPU. So it has its usual weight (weight.h) and the kernel's time slice
 * (time_slice.h). Packets are counted, not trains: a receiver of long trains also wakes for each of them.
 *
 * Owner: the worker, zero at first. Thread: the worker. Nothing to free. The caller gives the time. */
#ifndef UDPRING_TUNNEL_WORKER_DATAGRAM_RATE_H
#define UDPRING_TUNNEL_WORKER_DATAGRAM_RATE_H
#include "../../base.h"

struct datagram_rate {
    uint64_t window_ns, datagrams;      /* when the window began, and the counter then. 0: none has */
    bool many;                          /* at least DATAGRAMS_MANY (changes after MODERATION_RUN windows in a row) */
    uint32_t run;                       /* windows in a row that contradict `many` */
};

/* `datagrams` only grows. */
bool datagram_rate_many(struct datagram_rate *rate, uint64_t now, uint64_t datagrams);
#endif
