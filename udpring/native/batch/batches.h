/* From messages to batches of datagrams, for Python.
 *
 * 1. udp_batches_gather counts the ready messages, harvests more while there is room, and returns the size of the next batch:
 *    whole messages, and perhaps the beginning of one more train.
 * 2. udp_batches_build makes the batch. It leases the slots to the batch. When too many slots are leased already, it copies the
 *    datagrams and frees their slots at once, so that a program that keeps packets never leaves the kernel without buffers.
 * 3. udp_batches_return, from any thread, pushes a batch on a lock-free list. udp_batches_reclaim, in the owner's thread, takes
 *    back its slots. A train's slot is free once the last batch with a part of it has returned. */
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
    struct udpring_packet *ready;     /* [capacity]: harvested, not yet in a batch: ready[head .. tail) */
    uint16_t *holders;                /* [capacity]: number of batches that lease this slot or a part of it */
    struct udp_batch *idle;           /* batches for reuse */
    uint32_t head, tail, capacity;
    uint32_t idle_count;
    uint32_t a_message;               /* recent datagrams per message. Determines how many messages to harvest */
    struct udpring_recv_usage usage;
    uint64_t drops_reported;
    bool whole_trains;
    _Atomic(struct udp_batch *) returned;   /* pushed by any thread, taken whole by the owner */
};

/* The contents of the next batch, from ready[head] on. */
struct udp_share {
    uint32_t messages, datagrams;
    uint32_t last_count;              /* datagrams to take from the last message. 0: all */
    uint64_t payload;                 /* bytes */
};

int udp_batches_open(struct udp_batches *batches, struct udp_rx *rx, uint32_t slots) UR_MUST_CHECK;
/* Call once all batches have returned. */
void udp_batches_free(struct udp_batches *batches);
void udp_batches_reclaim(struct udp_batches *batches);
/* Drops the ready messages of a socket that was removed. Returns how many datagrams. */
uint32_t udp_batches_drop(struct udp_batches *batches, uint32_t socket);
/* Gathers up to max datagrams. share->messages 0: none are ready. -ENOBUFS: the program keeps more than allowed, and nothing
 * was harvested. */
int udp_batches_gather(struct udp_batches *batches, uint32_t max, struct udp_share *share) UR_MUST_CHECK;
/* Gathers what one socket has, whole messages that hold about `max` datagrams, and nothing else. */
int udp_batches_gather_from(struct udp_batches *batches, uint32_t socket, uint32_t max, struct udp_share *share) UR_MUST_CHECK;
/* Takes one single datagram of at most `room` bytes that no batch shares. Harvests up to `messages` if none is ready. Returns its
 * length, or -EAGAIN with nothing changed. */
int udp_batches_one(struct udp_batches *batches, uint32_t messages, struct udpring_address *source, uint8_t *to,
                    uint32_t room) UR_MUST_CHECK;
/* The same from one of the sockets that the caller polls. */
int udp_batches_one_from(struct udp_batches *batches, uint32_t socket, struct udpring_address *source, uint8_t *to,
                         uint32_t room) UR_MUST_CHECK;
/* Whether datagrams are ready without a harvest, and whether a reclaim would take back slots. */
bool udp_batches_waiting(const struct udp_batches *batches);
bool udp_batches_returned(const struct udp_batches *batches);
/* -ENOMEM: the ready messages stay ready. */
int udp_batches_build(struct udp_batches *batches, const struct udp_share *share, struct udpring_recv *recv,
                      struct udpring_batch **built) UR_MUST_CHECK;
/* Any thread. The udpring_recv that the batch was built for. */
struct udpring_recv *udp_batches_recv(const struct udpring_batch *face);
void udp_batches_return(struct udp_batches *batches, struct udpring_batch *face);
#endif
