#include "ring.h"
#include "sys.h"

int ur_ring_register(struct ur_ring *ring, enum io_uring_register_op opcode, const void *argument, uint32_t count)
{
    int code = ur_ring_usable(ring);
    /* A ring that is not enabled yet accepts registrations, restrictions among them. It has no owner to check. */
    if (code && !(code == -EBADFD && ring->state == UR_RING_DISABLED))
        return code;
    return ur_sys_register(ring->fd, opcode, argument, count);
}
