/* Submission and waiting, by io_uring_enter(2). */
#include "queue.h"

#include "sys.h"
#include "thread.h"

/* Calls of io_uring_enter(2) in a row without progress, after which a call gives up and reports back-pressure. */
#define STALLS_MAX 3
/* The longest wait for the thread of SQPOLL to free entries. */
#define ROOM_NS 2000000000ll

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

/* Counts the entries before `end` as submitted. */
static void count_submitted(struct ur_ring *ring, uint32_t end)
{
    for (; ring->sq_sent != end; ring->sq_sent++)
        ring->in_flight += ur_counted(ur_sqe_at(ring, ring->sq_sent)->user_data);
}

/* SQPOLL: from the store of the tail on all entries are the kernel's. Returns the flag that wakes its thread, if it sleeps. */
static uint32_t hand_over(struct ur_ring *ring)
{
    count_submitted(ring, ring->sq_tail);
    /* The thread sets its flag and then looks at the tail once more. We stored the tail and now look at the flag. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return ur_relaxed(ring->sq_kflags) & IORING_SQ_NEED_WAKEUP ? IORING_ENTER_SQ_WAKEUP : 0;
}

/* Calls io_uring_enter(2) once. Counts the entries taken by the kernel's head, whatever the call returns. After a short count,
 * or an error halfway, the rest stays queued, and the next call submits it. */
static int enter(struct ur_ring *ring, uint32_t to_submit, unsigned want, uint32_t flags,
                 const struct __kernel_timespec *timeout)
{
    struct io_uring_getevents_arg argument = {.ts = (uint64_t)(uintptr_t)timeout};
    bool extended = timeout != NULL;
    ur_release(ring->sq_ktail, ring->sq_tail);
    if (ur_unlikely(ur_polled(ring))) {
        flags |= hand_over(ring);
        if (!flags)
            return (int)to_submit;
    }
    int code = ur_sys_enter(ring->fd, to_submit, want, flags | (extended ? IORING_ENTER_EXT_ARG : 0),
                            extended ? &argument : NULL, extended ? sizeof(argument) : 0);
    uint32_t head = ur_acquire(ring->sq_khead);
    if (!ur_polled(ring))
        count_submitted(ring, head);
    ring->sq_head = head;
    /* -EEXIST: the kernel sees another task than the owner. The check of the owner should have prevented it. */
    return code == -EEXIST ? -EXDEV : code;
}

/* Call when submission makes no progress. Runs task work and flushes the overflow backlog, which frees memory. The kernel does
 * not get that far in a call whose submission fails. */
static void relieve(struct ur_ring *ring)
{
    enter(ring, 0, 0, IORING_ENTER_GETEVENTS, NULL);
}

int ur_run_deferred(struct ur_ring *ring)
{
    if (!ur_work_pending(ring))
        return 0;
    int code = enter(ring, 0, 0, IORING_ENTER_GETEVENTS, NULL);
    /* EBUSY: the completion queue is full. EINTR, EAGAIN: the work is still pending, and the next call runs it. */
    return code < 0 && code != -EINTR && code != -EAGAIN && code != -EBUSY ? code : 0;
}

int ur_submit(struct ur_ring *ring)
{
    int code = ur_ring_usable(ring);
    if (code)
        return code;
    uint32_t before = ring->sq_sent;
    unsigned stalls = 0;
    while (ur_sq_queued(ring) && stalls < STALLS_MAX) {
        uint32_t head = ring->sq_sent;
        code = enter(ring, ur_sq_queued(ring), 0, 0, NULL);
        if (code < 0 && code != -EINTR && code != -EAGAIN && code != -EBUSY)
            return code;
        stalls = ring->sq_sent == head ? stalls + 1 : 0;
        if (stalls)
            relieve(ring);
    }
    return (int)(ring->sq_sent - before);
}

int ur_make_room(struct ur_ring *ring, unsigned n)
{
    int code = ur_submit(ring);
    if (code < 0)
        return code;
    if (ur_unlikely(ur_polled(ring))) {
        int64_t deadline = (int64_t)ur_clock_ns(CLOCK_MONOTONIC) + ROOM_NS;
        while (ur_sq_room(ring) < n && code >= 0 && (int64_t)ur_clock_ns(CLOCK_MONOTONIC) < deadline) {
            code = enter(ring, 0, 0, IORING_ENTER_SQ_WAIT, NULL);   /* until one entry is free */
            if (code == -EINTR)
                code = 0;
        }
    }
    return ur_sq_room(ring) >= n ? 0 : code < 0 ? code : -EAGAIN;
}

unsigned ur_cq_surplus(const struct ur_ring *ring)
{
    if (!(ring->setup_flags & IORING_SETUP_CQE_MIXED))
        return 0;
    unsigned ready = ur_cq_ready(ring), surplus = 0;
    for (unsigned i = 0; i < ready; i++) {
        const struct io_uring_cqe *cqe = ur_cq_at(ring, i);
        bool wide = ur_cqe_wide(ring, cqe);
        surplus += wide || ur_cqe_filler(ring, cqe);
        i += wide;
    }
    return surplus;
}

/* Whether io_uring_enter(2) is unnecessary: no entry is queued, and enough completions are ready. */
static bool satisfied(const struct ur_ring *ring, unsigned want, int64_t timeout_ns)
{
    if (ur_sq_queued(ring) || ur_cq_ready(ring) < want)
        return false;
    if (timeout_ns != 0)
        return want > 0;
    /* A poll: with DEFER_TASKRUN completions appear only in a call with GETEVENTS. Without it the SQ flags show pending
     * work. */
    return !(ring->setup_flags & IORING_SETUP_DEFER_TASKRUN) &&
           !(ur_relaxed(ring->sq_kflags) & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN));
}

/* The kernel counts entries of the completion queue. */
static int wait_for_entries(struct ur_ring *ring, unsigned want, int64_t timeout_ns)
{
    int code = 0;
    if (want > ring->cq_entries)
        want = ring->cq_entries;
    if (satisfied(ring, want, timeout_ns))
        return 0;

    unsigned least = timeout_ns ? want : 0, stalls = 0;
    int64_t deadline = timeout_ns > 0 ? (int64_t)ur_clock_ns(CLOCK_MONOTONIC) + timeout_ns : 0;
    int64_t left = timeout_ns;
    for (;;) {
        struct __kernel_timespec limit = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        uint32_t head = ring->sq_sent;
        bool short_submit = ur_sq_queued(ring) > 0;
        code = enter(ring, ur_sq_queued(ring), least, IORING_ENTER_GETEVENTS, timeout_ns > 0 && least ? &limit : NULL);
        short_submit = short_submit && ur_sq_queued(ring) > 0;
        if (code < 0 && code != -EAGAIN && code != -EBUSY && code != -EINTR && code != -ETIME)
            return code;
        if (!short_submit || code == -EINTR || code == -ETIME)
            break;
        /* The kernel took a part of the entries and did not wait. Submit the rest again, unless there is no progress. */
        stalls = ring->sq_sent == head ? stalls + 1 : 0;
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
    /* After submissions or some completions the kernel returns a count in place of ETIME or EINTR. The clock distinguishes
     * them. */
    if (code == -EBUSY || code == -EAGAIN)
        return code;
    if (timeout_ns == 0 || code == -ETIME)
        return -ETIME;
    if (timeout_ns > 0 && (int64_t)ur_clock_ns(CLOCK_MONOTONIC) >= deadline)
        return -ETIME;
    return -EINTR;
}

int ur_submit_and_wait(struct ur_ring *ring, unsigned want, int64_t timeout_ns)
{
    int code = ur_ring_usable(ring);
    if (code)
        return code;
    if (timeout_ns > INT64_MAX / 2)
        timeout_ns = -1;   /* 146 years: no limit, and no overflow below */
    if (ur_likely(!(ring->setup_flags & IORING_SETUP_CQE_MIXED)))
        return wait_for_entries(ring, want, timeout_ns);

    int64_t deadline = timeout_ns > 0 ? (int64_t)ur_clock_ns(CLOCK_MONOTONIC) + timeout_ns : 0;
    for (;;) {
        unsigned entries = want + ur_cq_surplus(ring);
        code = wait_for_entries(ring, entries, timeout_ns);
        if (code || !want || entries >= ring->cq_entries || ur_cq_ready(ring) - ur_cq_surplus(ring) >= want)
            return code;
        if (timeout_ns > 0) {
            timeout_ns = deadline - (int64_t)ur_clock_ns(CLOCK_MONOTONIC);
            if (timeout_ns <= 0)
                return -ETIME;
        }
    }
}

unsigned ur_sqe_retract(struct ur_ring *ring, unsigned n)
{
    unsigned queued = ur_sq_queued(ring);
    if (n > queued)
        n = queued;
    ring->sq_tail -= n;
    if (n && !ur_polled(ring))   /* the thread of SQPOLL would take the entries that are left */
        ur_release(ring->sq_ktail, ring->sq_tail);
    return n;
}
