/* A provided buffer ring (IORING_REGISTER_PBUF_RING, 5.19). Never with IOU_PBUF_RING_INC, which has bugs with recvmsg
 * (kernel.h).
 * Owner: the user of the ring. Thread: the ring's owner. Freed by ur_bufring_close(). */
#ifndef UDPRING_URING_BUFRING_H
#define UDPRING_URING_BUFRING_H
#include "ring.h"

struct ur_bufring {
    struct io_uring_buf *entries;   /* mapped, page aligned */
    uint32_t count;                 /* power of two, at most 32768 */
    uint16_t group, tail;           /* tail: local, until ur_bufring_publish */
    size_t bytes;                   /* of the mapping */
    uint32_t forks;                 /* ur_fork_count() at open: a forked child has no mapping to unmap */
};

/* Maps and registers. -EINVAL: count is not a power of two or above 32768, or the kernel is older than 5.19 (see the reason).
 * -EEXIST: the group is in use. */
int ur_bufring_open(struct ur_bufring *buffers, struct ur_ring *ring, uint16_t group, uint32_t count,
                    struct udpring_reason *why) UR_MUST_CHECK;
/* Adds a buffer at the tail. The kernel sees it only after a publish. The caller must never have more than `count` in the
 * ring. */
void ur_bufring_add(struct ur_bufring *buffers, void *address, uint32_t length, uint16_t id);
void ur_bufring_publish(struct ur_bufring *buffers);   /* one store-release for all added buffers */
/* Unregisters and unmaps. Call it before ur_ring_close (after ur_ring_stop, so that no operation selects from it), or after it,
 * when closing the ring has removed the registration. If that close left operations undrained, the entries go to the graveyard.
 * Does nothing in a forked child. 0, or -errno of the unregistration (then nothing is unmapped). Idempotent. */
int ur_bufring_close(struct ur_bufring *buffers, struct ur_ring *ring);
#endif
