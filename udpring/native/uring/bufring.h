/* A provided buffer ring (IORING_REGISTER_PBUF_RING, 5.19). Never IOU_PBUF_RING_INC: see the bugs it has with recvmsg.
 * Owner: the user of the ring. Thread: the ring's owner. Freed by ur_bufring_close(). */
#ifndef UDPRING_URING_BUFRING_H
#define UDPRING_URING_BUFRING_H
#include "ring.h"

struct ur_bufring {
    struct io_uring_buf *entries;   /* mapped, page aligned */
    uint32_t count;                 /* power of two, at most 32768 */
    uint16_t group, tail;           /* tail: ours, published by ur_bufring_publish */
};

int ur_bufring_open(struct ur_bufring *buffers, struct ur_ring *ring, uint16_t group, uint32_t count,
                    struct udpring_reason *why) UR_MUST_CHECK;
void ur_bufring_add(struct ur_bufring *buffers, void *address, uint32_t length, uint16_t id);
void ur_bufring_publish(struct ur_bufring *buffers);   /* one store-release for all that was added */
int ur_bufring_close(struct ur_bufring *buffers, struct ur_ring *ring);
#endif
