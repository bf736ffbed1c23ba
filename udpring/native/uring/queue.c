/* Entering the kernel: submission and waiting. */
#include "ring.h"
#include "sys.h"
#include "thread.h"

/* Enters without progress, in a row, before a call gives up and reports the back-pressure. */
#define STALLS_MAX 3

int ur_ring_usable(const struct ur_ring *ring)
{
    if (ur_unlikely(ring->state != UR_RING_LIVE)) {
        if (ring->state != UR_RING_DISABLED)
            return -EBADF;
        return ring->forks != ur_fork_count() ? -EXDEV : -EBADFD;
    }
    if (ur_unlikely(ring->owner != ur_thread_number() || ring->forks != ur_fork_count()))
        return -EXDEV;
    return 0;
}

/* One enter. Whatever it returns, what the kernel took is counted by its own head: a short count, or an error after
 * part of the work, leaves the rest queued, and the next enter offers all of it again. */
static int enter(struct ur_ring *ring, uint32_t to_submit, unsigned want, uint32_t flags,
                 const struct __kernel_timespec *timeout)
{
    struct io_uring_getevents_arg argument = {.ts = (uint64_t)(uintptr_t)timeout};
    bool extended = timeout != NULL;
    ur_release(ring->sq_ktail, ring->sq_tail);
    int code = ur_sys_enter(ring->fd, to_submit, want, flags | (extended ? IORING_ENTER_EXT_ARG : 0),
                            extended ? &argument : NULL, extended ? sizeof(argument) : 0);
    uint32_t head = ur_acquire(ring->sq_khead);
    for (; ring->sq_head != head; ring->sq_head++)
        ring->in_flight += ur_counted(ring->sqes[ring->sq_head & ring->sq_mask].user_data);
    /* Cannot be: we checked the owner. If the kernel sees another task nevertheless, say what it is. */
    return code == -EEXIST ? -EXDEV : code;
}

/* Submission did not move: run what is due and flush the backlog of completions, which frees memory. A failing
 * submission ends its enter before it comes to that. */
static void relieve(struct ur_ring *ring)
{
    enter(ring, 0, 0, IORING_ENTER_GETEVENTS, NULL);
}

int ur_submit(struct ur_ring *ring)
{
    int code = ur_ring_usable(ring);
    if (code)
        return code;
    uint32_t before = ring->sq_head;
    unsigned stalls = 0;
    while (ur_sq_queued(ring) && stalls < STALLS_MAX) {
        uint32_t head = ring->sq_head;
        code = enter(ring, ur_sq_queued(ring), 0, 0, NULL);
        if (code < 0 && code != -EINTR && code != -EAGAIN && code != -EBUSY)
            return code;
        stalls = ring->sq_head == head ? stalls + 1 : 0;
        if (stalls)
            relieve(ring);
    }
    return (int)(ring->sq_head - before);
}

/* Nothing to do in the kernel: enough is there, nothing is queued, and no poll was asked for. */
static bool satisfied(const struct ur_ring *ring, unsigned want, int64_t timeout_ns)
{
    if (ur_sq_queued(ring) || ur_cq_ready(ring) < want)
        return false;
    if (timeout_ns != 0)
        return want > 0;
    /* A poll: with DEFER_TASKRUN completions only appear in an enter with GETEVENTS; else the kernel says when. */
    return !(ring->setup_flags & IORING_SETUP_DEFER_TASKRUN) &&
           !(ur_relaxed(ring->sq_kflags) & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN));
}

int ur_submit_and_wait(struct ur_ring *ring, unsigned want, int64_t timeout_ns)
{
    int code = ur_ring_usable(ring);
    if (code)
        return code;
    if (want > ring->cq_entries)
        want = ring->cq_entries;
    if (timeout_ns > INT64_MAX / 2)
        timeout_ns = -1;   /* 146 years: no limit, and no overflow below */
    if (satisfied(ring, want, timeout_ns))
        return 0;

    unsigned least = timeout_ns ? want : 0, stalls = 0;
    int64_t deadline = timeout_ns > 0 ? (int64_t)ur_clock_ns(CLOCK_MONOTONIC) + timeout_ns : 0;
    int64_t left = timeout_ns;
    for (;;) {
        struct __kernel_timespec limit = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        uint32_t head = ring->sq_head;
        bool short_submit = ur_sq_queued(ring) > 0;
        code = enter(ring, ur_sq_queued(ring), least, IORING_ENTER_GETEVENTS, timeout_ns > 0 && least ? &limit : NULL);
        short_submit = short_submit && ur_sq_queued(ring) > 0;
        if (code < 0 && code != -EAGAIN && code != -EBUSY && code != -EINTR && code != -ETIME)
            return code;
        if (!short_submit || code == -EINTR || code == -ETIME)
            break;
        /* The kernel took part and did not wait: offer the rest again, unless nothing moves. */
        stalls = ring->sq_head == head ? stalls + 1 : 0;
        if (stalls)
            relieve(ring);
        if (stalls >= STALLS_MAX)
            return ur_cq_ready(ring) >= want && want ? 0 : code == -EBUSY ? -EBUSY : -EAGAIN;
        if (timeout_ns > 0) {
            left = deadline - (int64_t)ur_clock_ns(CLOCK_MONOTONIC);
            if (left <= 0)
                left = 1;
        }
    }
    if (ur_cq_ready(ring) >= want)
        return 0;
    /* The kernel hides ETIME and EINTR behind a count of submissions, or behind a few completions: tell them by the clock. */
    if (code == -EBUSY || code == -EAGAIN)
        return code;
    if (timeout_ns == 0 || code == -ETIME)
        return -ETIME;
    if (timeout_ns > 0 && (int64_t)ur_clock_ns(CLOCK_MONOTONIC) >= deadline)
        return -ETIME;
    return -EINTR;
}

unsigned ur_sqe_retract(struct ur_ring *ring, unsigned n)
{
    unsigned queued = ur_sq_queued(ring);
    if (n > queued)
        n = queued;
    ring->sq_tail -= n;
    if (n)
        ur_release(ring->sq_ktail, ring->sq_tail);
    return n;
}
