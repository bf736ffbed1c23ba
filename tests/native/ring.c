/* Entries that no operation of the ring makes. */
#include "abi.h"
#include "uring/owned.h"

_Static_assert(UDPRING_DENY_CANCEL_ANY == UR_DENY_CANCEL_ANY, "one bit");
_Static_assert(UDPRING_DENY_SINGLE_MMAP == UR_DENY_SINGLE_MMAP, "one bit");

int32_t udpring_ring_raw(struct udpring_ring *self, const uint8_t *bytes)
{
    struct io_uring_sqe *sqe = ur_sqe(&self->ring);
    if (!sqe)
        return -ENOBUFS;
    memcpy(sqe, bytes, sizeof(*sqe));
    return 0;
}
