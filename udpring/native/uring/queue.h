/* Takes entries of a submission queue that may be full. ring.h declares the rest of queue.c. */
#ifndef UDPRING_URING_QUEUE_H
#define UDPRING_URING_QUEUE_H
#include "ring.h"

/* Submits until n entries are free. 0, or -EAGAIN: the kernel takes too few. n <= sq_entries. */
int ur_make_room(struct ur_ring *ring, unsigned n);
/* As ur_sqe(), but submits first when the SQ is full. NULL only when the kernel takes no entry. */
static inline struct io_uring_sqe *ur_sqe_or_submit(struct ur_ring *ring)
{
    struct io_uring_sqe *sqe = ur_sqe(ring);
    if (ur_likely(sqe != NULL))
        return sqe;
    return ur_make_room(ring, 1) == 0 ? ur_sqe(ring) : NULL;
}
#endif
