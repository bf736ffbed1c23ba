/* Closes a ring so that the kernel cannot write to freed memory (R5).
 * Closing the descriptor does not suffice. The kernel tears a ring down on a work queue, and operations that wait on a socket
 * or pipe hold their own reference to it. So they could still write to memory that was freed meanwhile. Hence:
 *   1. Retract entries that are queued and not submitted.
 *   2. Cancel all operations, repeatedly: a cancel misses an operation that is just being retried.
 *   3. Reap completions until each submission has its terminal one, or the bound has passed.
 *   4. Only then unmap and close. Report the operations that did not end, so that the caller leaks their memory on purpose. */
#include <signal.h>

#include "confined.h"
#include "maps.h"
#include "ops.h"
#include "sys.h"
#include "thread.h"

#define DRAIN_NS 2000000000ll
#define ROUND_NS 20000000ll
#define CANCEL_EVERYTHING (IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL)

static const uint64_t cancel_data = UR_USER_DATA(UR_KIND_CANCEL, 0xffffff, 0xffffffff);

enum cancel_way { CANCEL_ASYNC, CANCEL_SYNC, CANCEL_NONE };

static int cancel_at_once(const struct ur_ring *ring)
{
    struct io_uring_sync_cancel_reg request = {.fd = -1, .flags = CANCEL_EVERYTHING, .timeout = {.tv_nsec = ROUND_NS}};
    return ur_sys_register(ring->fd, IORING_REGISTER_SYNC_CANCEL, &request, 1);
}

/* Queues or makes one request to cancel all operations. ASYNC_CANCEL ANY needs Linux 5.19, SYNC_CANCEL 6.0. On older kernels
 * the ring's user cancels by user_data (ur_ops_cancel_all) before the close, and this function only waits. */
static enum cancel_way request_cancel(struct ur_ring *ring, enum cancel_way way)
{
    if (way == CANCEL_ASYNC) {
        struct io_uring_sqe *sqe = ur_sqe(ring);
        if (sqe) {
            sqe->opcode = IORING_OP_ASYNC_CANCEL;
            sqe->fd = -1;
            sqe->cancel_flags = CANCEL_EVERYTHING;
            sqe->user_data = cancel_data;
        }
        return way;
    }
    return way == CANCEL_SYNC && cancel_at_once(ring) == -EINVAL ? CANCEL_NONE : way;
}

/* Discards the ready completions. Detects a kernel that does not support the cancel request. */
static enum cancel_way discard(struct ur_ring *ring, enum cancel_way way)
{
    unsigned ready = ur_cq_ready(ring);
    for (unsigned i = 0; i < ready; i++) {
        const struct io_uring_cqe *cqe = ur_cq_at(ring, i);
        if (cqe->user_data == cancel_data && cqe->res == -EINVAL && way == CANCEL_ASYNC)
            way = CANCEL_SYNC;
    }
    ur_cq_advance(ring, ready);
    return way;
}

int ur_ring_stop(struct ur_ring *ring)
{
    int code = ur_ring_usable(ring);
    if (code)
        return code == -EBADFD ? 0 : code;
    ur_sqe_retract(ring, ring->sq_entries);
    enum cancel_way way = discard(ring, ring->deny & UR_DENY_CANCEL_ANY ? CANCEL_NONE : CANCEL_ASYNC);
    int64_t deadline = (int64_t)ur_clock_ns(CLOCK_MONOTONIC) + DRAIN_NS;
    for (unsigned round = 0; ring->in_flight > 0 && (int64_t)ur_clock_ns(CLOCK_MONOTONIC) < deadline; round++) {
        if (round && way == CANCEL_ASYNC)
            (void)cancel_at_once(ring);   /* an operation with IO_DRAIN holds up the cancels behind it */
        way = request_cancel(ring, way);
        uint64_t expected = (uint64_t)ring->in_flight + ur_sq_queued(ring);
        code = ur_submit_and_wait(ring, expected < ring->cq_entries ? (unsigned)expected : ring->cq_entries, ROUND_NS);
        ur_sqe_retract(ring, ring->sq_entries);
        way = discard(ring, way);
        if (code == -EAGAIN || code == -EBUSY) {
            struct timespec pause = {.tv_nsec = 1000000};
            nanosleep(&pause, NULL);
        } else if (code && code != -ETIME && code != -EINTR && code != -EBADR) {
            break;
        }
    }
    int64_t left = ring->in_flight;
    return left <= 0 ? 0 : left > INT32_MAX ? INT32_MAX : (int)left;
}

static bool owner_lives(const struct ur_ring *ring)
{
    return syscall(SYS_tgkill, getpid(), ring->owner_tid, 0) == 0 || errno != ESRCH;
}

/* The struct no longer has a ring. */
static int forget(struct ur_ring *ring, int undrained)
{
    memset(ring, 0, sizeof(*ring));
    ring->fd = -1;
    ring->state = UR_RING_CLOSED;
    ring->undrained = undrained;
    return undrained;
}

/* The last step of every path: no call can use the ring any more. */
static int finish(struct ur_ring *ring, int undrained)
{
    ur_unmap_queues(ring);
    close(ring->fd);
    return forget(ring, undrained);
}

int ur_ring_close(struct ur_ring *ring)
{
    if (ring->state == UR_RING_NONE || ring->state == UR_RING_CLOSED)
        return ring->undrained;
    if (ring->forks != ur_fork_count()) {
        /* The queues are not mapped in a forked child (MADV_DONTFORK), and their addresses may be in use again. */
        ring->sqes = NULL;
        ring->sq_map = ring->cq_map = NULL;
        return finish(ring, 0);
    }
    if (ring->state == UR_RING_LIVE && ring->owner != ur_thread_number()) {
        if (owner_lives(ring))
            return -EXDEV;
        int64_t left = ring->in_flight;
        return finish(ring, left > 0 ? (int)left : 0);
    }
    int left = ur_ring_stop(ring);
    if (left == 0 && ur_kept_put(ring))
        return forget(ring, 0);
    return finish(ring, left > 0 ? left : 0);
}

int ur_ring_abandon(struct ur_ring *ring)
{
    int64_t left = ring->in_flight;
    return finish(ring, left > 0 ? (int)left : 0);
}
