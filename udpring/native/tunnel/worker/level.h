/* Whether a counter grows fast: by at least `a_second`. It is high or low only after MODERATION_RUN windows in a row.
 *
 * Owner: the worker, zero at first. Thread: the worker. Nothing to free. The caller gives the time. */
#ifndef UDPRING_TUNNEL_WORKER_LEVEL_H
#define UDPRING_TUNNEL_WORKER_LEVEL_H
#include "../../base.h"

struct level {
    uint64_t window_ns, count;          /* when the window began, and the counter then. 0: none has */
    bool high;
    uint32_t run;                       /* windows in a row that contradict `high` */
};

/* `count` only grows. */
bool level_high(struct level *level, uint64_t now, uint64_t count, uint32_t a_second);
#endif
