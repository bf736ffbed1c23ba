/* Packets of one worker that wait for a key: a queue for each peer. The queues are sorted by size, so that the longest one
 * loses packets first when memory is used up. staged.c decides what is staged and when it leaves. */
#ifndef UDPRING_TUNNEL_PEERS_STAGING_H
#define UDPRING_TUNNEL_PEERS_STAGING_H
#include "../../base.h"

#include "../limits.h"

struct peer;

/* Owner: the queue that holds it. Thread: that of the queue. Freed by staging_forget(). */
struct staged_packet {
    uint32_t length;
    uint8_t data[];
};

/* The packets that one worker has staged for a peer, and its deferred events of that peer. Owner: the peer. Thread: that
 * worker, or worker 0 while all are stopped. Freed with the peer. */
struct staging {
    struct staged_packet **packets;   /* a ring, [STAGED_MAX], allocated at first use */
    uint32_t head, count;             /* the oldest is at head */
    uint32_t bytes;                   /* its bytes, as staging_all counts them */
    uint32_t step;                    /* which list of staging_all it is in, unless it is empty */
    struct staging *before, *behind;  /* its neighbours there */
    bool ready;                      /* in that worker's list of those to send */
    uint16_t deferred;                 /* bits: 1 << enum udpring_event_kind */
    struct peer *next_ready;
};

enum { STAGING_STEPS = 64, STAGING_STEP_BYTES = 4 << 10 };

/* All queues of one worker that hold something, in lists by their bytes: a step is 4 KiB, and the last is all above.
 * Owner: the worker. Thread: as of struct staging. Nothing to free. */
struct staging_all {
    size_t bytes, most;               /* held, and allowed */
    uint64_t steps;                   /* bit i: first[i] is not NULL */
    struct staging *first[STAGING_STEPS];
};

/* Keeps a copy. Drops the oldest packet of this queue if it holds STAGED_MAX, and the oldest of the longest queue while there
 * are too many bytes. *gone: the number of dropped packets. 0, or -ENOMEM: not kept. */
int staging_put(struct staging_all *all, struct staging *staging, const uint8_t *packet, uint32_t length, uint32_t *gone);
/* The oldest staged packet, with WG_PADDING bytes of room behind it, or NULL. */
static inline struct staged_packet *staging_oldest(const struct staging *staging)
{
    return staging->count ? staging->packets[staging->head] : NULL;
}
/* Wipes and frees it. */
void staging_forget(struct staging_all *all, struct staging *staging);
#endif
