/* From messages to batches of datagrams, for Python.
 *
 * 1. udp_batches_gather looks through what is ready, harvests more as long as there is room, and says how much of it makes
 *    up the next batch: whole messages, and perhaps the beginning of one more train.
 * 2. udp_batches_build takes that out: slots are leased to the batch, or, when too many are out already, the datagrams are
 *    copied and the slots are free at once, so that the kernel never starves because somebody keeps packets.
 * 3. udp_batches_return, from any thread, pushes a batch on a lock-free list; udp_batches_reclaim, in the owner's thread, takes
 *    back its slots. A train's slot is free when the last batch that has a part of it is back. */
#ifndef UDPRING_BATCH_BATCHES_H
#define UDPRING_BATCH_BATCHES_H
#include "../base.h"

#include <stdatomic.h>

#include "../udp/rx.h"

struct udpring_recv;
struct udp_batch;

/* Owner: the udpring_recv that it is embedded in. Thread: the owner's for all but `returned`. Freed by udp_batches_free(). */
struct udp_batches {
    struct udp_rx *rx;                /* NULL after close */
    struct udpring_packet *ready;     /* [capacity]: harvested, not given out yet: ready[head .. tail) */
    uint16_t *holders;                /* [capacity]: batches out that lease this slot, or a part of it */
    struct udp_batch *idle;           /* to be used again */
    uint32_t head, tail, capacity;
    uint32_t idle_count;
    uint32_t a_message;               /* datagrams that messages held lately: how many messages to ask for */
    struct udpring_recv_usage usage;
    uint64_t drops_reported;
    bool whole_trains;
    _Atomic(struct udp_batch *) returned;   /* pushed by any thread, taken whole by the owner */
};

/* What the next batch is made of, from ready[head] on. */
struct udp_share {
    uint32_t messages, datagrams;
    uint32_t rest;                    /* of the last message only so many datagrams are taken; 0: all */
    uint64_t payload;                 /* bytes */
};

int udp_batches_open(struct udp_batches *batches, struct udp_rx *rx, uint32_t slots) UR_MUST_CHECK;
/* When no batch is out any more. */
void udp_batches_free(struct udp_batches *batches);
void udp_batches_reclaim(struct udp_batches *batches);
/* Up to max datagrams; messages 0: nothing is there. -ENOBUFS: the program keeps more than it may, and nothing was harvested. */
int udp_batches_gather(struct udp_batches *batches, uint32_t max, struct udp_share *share) UR_MUST_CHECK;
/* Takes one single datagram of at most `room` bytes that no batch has a part of: its length. Else -EAGAIN, and all stays. */
int udp_batches_one(struct udp_batches *batches, struct udpring_address *source, uint8_t *to, uint32_t room) UR_MUST_CHECK;
/* Whether there is something that needs no harvest; whether a reclaim would bring something back. */
bool udp_batches_waiting(const struct udp_batches *batches);
bool udp_batches_returned(const struct udp_batches *batches);
/* -ENOMEM: what was ready still is. */
int udp_batches_build(struct udp_batches *batches, const struct udp_share *share, struct udpring_recv *recv,
                      struct udpring_batch **built) UR_MUST_CHECK;
/* Any thread. Whom the batch was built for. */
struct udpring_recv *udp_batches_recv(const struct udpring_batch *face);
void udp_batches_return(struct udp_batches *batches, struct udpring_batch *face);
#endif
