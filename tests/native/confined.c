/* Rings of a confined thread (uring/confined.h), in the calling thread, which is as before afterwards. */
#include "abi.h"
#include "uring/confined.h"

#include <sys/eventfd.h>
#include <unistd.h>

/* Queues one operation, and returns its result. */
static int32_t run(struct ur_ring *ring, uint8_t opcode, int32_t fd, uint32_t events)
{
    struct io_uring_sqe *sqe = ur_sqe(ring);
    if (!sqe)
        return -ENOBUFS;
    sqe->opcode = opcode;
    sqe->fd = fd;
    sqe->poll32_events = events;
    sqe->user_data = UR_USER_DATA(UR_KIND_WATCH, 0, 0);
    int code = ur_submit_and_wait(ring, 1, 2000000000);
    if (code)
        return code;
    code = ur_cq_at(ring, 0)->res;
    ur_cq_advance(ring, 1);
    return code;
}

int32_t udpring_confined_operation(uint8_t opcode, int32_t fd, uint32_t events)
{
    struct ur_ring ring;
    int code = ur_confine_thread();
    if (code == 0)
        code = ur_ring_open(&ring, NULL, NULL);
    if (code == 0) {
        code = run(&ring, opcode, fd, events);
        ur_ring_close(&ring);
    }
    ur_unconfine_thread();
    return code;
}

int32_t udpring_confined_registration(uint32_t opcode)
{
    struct ur_ring ring;
    int code = ur_confine_thread();
    if (code == 0)
        code = ur_ring_open(&ring, NULL, NULL);
    if (code == 0) {
        code = ur_ring_register(&ring, (enum io_uring_register_op)opcode, NULL, 0);
        ur_ring_close(&ring);
    }
    ur_unconfine_thread();
    return code;
}

/* Closes a ring with an operation in flight and opens one again, `times` times. Returns how many descriptors that took. */
int32_t udpring_confined_reopened(uint32_t times)
{
    const struct ur_ring_options options = {.entries = 16};
    struct ur_ring ring;
    int32_t descriptors = 0;
    int before = -1, code = ur_confine_thread();
    int silent = eventfd(0, EFD_CLOEXEC), ready = eventfd(1, EFD_CLOEXEC);
    for (uint32_t i = 0; i < times && code == 0; i++) {
        code = ur_ring_open(&ring, &options, NULL);
        if (code)
            break;
        descriptors += ring.fd != before;
        before = ring.fd;
        code = run(&ring, IORING_OP_POLL_ADD, ready, 1);   /* it still works */
        code = code == 1 ? 0 : code ? code : -EIO;
        struct io_uring_sqe *sqe = ur_sqe(&ring);
        sqe->opcode = IORING_OP_POLL_ADD;
        sqe->fd = silent;
        sqe->poll32_events = 1;
        sqe->user_data = UR_USER_DATA(UR_KIND_WATCH, 0, 1);
        (void)ur_submit(&ring);
        if (ur_ring_close(&ring))
            code = -EBUSY;
    }
    ur_unconfine_thread();
    close(silent);
    close(ready);
    return code ? code : descriptors;
}

int32_t udpring_confined_second_open(void)
{
    struct ur_ring ring;
    int code = ur_confine_thread();
    if (code == 0 && ur_ring_open(&ring, NULL, NULL))
        code = ur_ring_open(&ring, NULL, NULL);
    if (code == 0)
        ur_ring_close(&ring);
    ur_unconfine_thread();
    return code;
}
