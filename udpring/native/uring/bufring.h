/* A provided buffer ring (IORING_REGISTER_PBUF_RING, 5.19). Never IOU_PBUF_RING_INC: see the bugs it has with recvmsg.
 * Owner: the user of the ring. Thread: the ring's owner. Freed by ur_bufring_close(). */
#ifndef UDPRING_URING_BUFRING_H
#define UDPRING_URING_BUFRING_H
#include "ring.h"

struct ur_bufring {
    struct io_uring_buf *entries;   /* mapped, page aligned */
    uint32_t count;                 /* power of two, at most 32768 */
    uint16_t group, tail;           /* tail: ours, published by ur_bufring_publish */
    size_t bytes;                   /* of the mapping */
    uint32_t forks;                 /* ur_fork_count() at open: a forked child must not unmap what it has not */
};

/* Maps and registers. -EINVAL: count no power of two or above 32768; -EEXIST: the group is taken; -EINVAL from the kernel
 * before 5.19, with the reason. */
int ur_bufring_open(struct ur_bufring *buffers, struct ur_ring *ring, uint16_t group, uint32_t count,
                    struct udpring_reason *why) UR_MUST_CHECK;
/* Adds a buffer behind the tail; unseen until published. The caller keeps track: never more than `count` at once. */
void ur_bufring_add(struct ur_bufring *buffers, void *address, uint32_t length, uint16_t id);
void ur_bufring_publish(struct ur_bufring *buffers);   /* one store-release for all that was added */
/* Unregisters and unmaps: before ur_ring_close (after ur_ring_stop, so that nothing selects from it), or after it, when
 * the registration is gone with the ring; if that close left operations undrained, the entries go to the graveyard. In a
 * forked child nothing is touched. 0 or -errno of the unregistration (then nothing is unmapped). Idempotent. */
int ur_bufring_close(struct ur_bufring *buffers, struct ur_ring *ring);
#endif
