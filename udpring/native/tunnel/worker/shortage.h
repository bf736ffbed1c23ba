/* A shortage: a pass failed because the host lacked memory or room in a queue for a moment. The worker tries again after a
 * pause that grows, and runs commands in between. Only a lasting shortage ends the worker.
 * Owner: the worker. Thread: its own. Nothing to free. */
#ifndef UDPRING_TUNNEL_WORKER_SHORTAGE_H
#define UDPRING_TUNNEL_WORKER_SHORTAGE_H
#include "../../base.h"

struct shortage {
    uint64_t since;             /* CLOCK_BOOTTIME of the first failing pass in a row. 0: the last one succeeded */
    uint32_t passes;            /* in a row */
};

/* Whether such an error may pass by itself. */
static inline bool shortage_is(int result)
{
    return result == -EAGAIN || result == -ENOMEM || result == -ENOBUFS || result == -EBUSY || result == -EIO;
}

/* After a pass that failed with `result`: pauses, or until wake_fd is readable. 0: try again. `result`: it has failed so for
 * SHORTAGE_NS. */
int shortage_pause(struct shortage *shortage, int result, int wake_fd) UR_MUST_CHECK;
#endif
