/* Packets that wait for a key, as one worker keeps them: a queue for each peer, and all of them sorted by how much they
 * hold, so that what is full gives way from the longest. Who stages what, and when it leaves: staged.c. */
#ifndef UDPRING_TUNNEL_PEERS_STAGING_H
#define UDPRING_TUNNEL_PEERS_STAGING_H
#include "../../base.h"

#include "../limits.h"

struct peer;

/* Owner: the queue it is in. Thread: that one's. Freed by whoever unstages it. */
struct staged_packet {
    uint32_t length;
    uint8_t data[];
};

/* What one worker has staged for a peer, and what it has yet to tell the control loop of it. Owner: the peer. Thread: that
 * worker, or worker 0 while all stand. Freed with the peer. */
struct staging {
    struct staged_packet **packets;   /* a ring, [STAGED_MAX], allocated at first use */
    uint32_t head, count;             /* the oldest is at head */
    uint32_t bytes;                   /* what it holds, as staging_all counts */
    uint32_t step;                    /* which list of staging_all it is in, unless it is empty */
    struct staging *before, *behind;  /* its neighbours there */
    bool ready;                      /* in that worker's list of those to send */
    uint16_t deferred;                 /* what the mailbox had no room for: that worker's bits, 1 << enum udpring_event_kind */
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

/* Keeps a copy. What has to go for it goes: the oldest of this queue when there are STAGED_MAX, the oldest of the longest
 * queue when there are too many bytes. *gone counts them. 0, or
 * -ENOMEM: not kept. */
int staging_put(struct staging_all *all, struct staging *staging, const uint8_t *packet, uint32_t length, uint32_t *gone);
/* The oldest staged packet, with WG_PADDING bytes of room behind it, or NULL. */
static inline struct staged_packet *staging_oldest(const struct staging *staging)
{
    return staging->count ? staging->packets[staging->head] : NULL;
}
/* Wipes and frees it. */
void staging_forget(struct staging_all *all, struct staging *staging);
#endif
