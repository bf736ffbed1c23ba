/* One io_uring instance: set-up, submission and completion queue, entering the kernel, closing.
 * General: nothing here depends on UDP. Sources: io_uring_setup(2), io_uring_enter(2), io_uring_register(2).
 *
 * Flow of one pass:
 *   1. ur_sqe() returns the next free entry. The caller fills all of it, including user_data.
 *   2. ur_submit_and_wait() publishes the tail once, enters the kernel once, and counts what the kernel took.
 *   3. ur_cq_ready() / ur_cq_at() read the completions. ur_cq_advance() returns them to the kernel in one store.
 *   4. ur_ring_close() cancels the operations in flight and waits for their end before it unmaps anything (R5).
 *
 * Files: setup.c opens, explain.c words the failures, queue.c submits and waits, close.c closes, register.c registers,
 * confined.c restricts and keeps rings. */
#ifndef UDPRING_URING_RING_H
#define UDPRING_URING_RING_H
#include "../base.h"

#include "barrier.h"
#include "kernel.h"   /* the kernel ABI, own header with static asserts */
#include "ops.h"

#define UR_ENTRIES_DEFAULT 256u
#define UR_ENTRIES_LEAST 8u

/* In flags_deny, for tests: close as on kernels before 5.19, which cannot cancel all operations at once. Map the queues one by
 * one, as on kernels before 5.4. */
#define UR_DENY_CANCEL_ANY (1u << 31)
#define UR_DENY_SINGLE_MMAP (1u << 30)

struct ur_ring_options {
    uint32_t entries;     /* SQ entries wanted. 0 = 256. At least 8. Rounded up to a power of two, clamped to 32768 */
    uint32_t cq_entries;  /* CQ entries wanted. 0 = 4 x entries. Fewer than the SQ's is -EINVAL. Clamped to 65536 */
    uint32_t flags_deny;  /* IORING_SETUP_* bits never to request (tests and fallbacks): flag sets with one of them are
                           * skipped. Also UR_DENY_* */
    bool visible_work;    /* with DEFER_TASKRUN also TASKRUN_FLAG, for callers that wait on an eventfd (ur_work_pending) */
    bool disabled;        /* start with R_DISABLED: the thread that calls ur_ring_enable() becomes the owner */
    uint32_t flags_want;  /* of SQPOLL, SQ_AFF, ATTACH_WQ, SQE128, CQE32, CQE_MIXED: required, so a kernel without one refuses the ring */
    uint32_t sq_thread_idle, sq_thread_cpu, wq_fd;   /* of io_uring_setup(2), for these flags */
    uint32_t workers[2];  /* the most io-wq threads, bounded and unbounded. 0 = 4 */
};

enum ur_ring_state {
    UR_RING_NONE = 0,     /* zeroed memory, never opened */
    UR_RING_DISABLED,     /* opened with R_DISABLED, not enabled yet: no owner */
    UR_RING_LIVE,
    UR_RING_CLOSED,
};

/* Owner: the struct that embeds it. Thread: the creator (or enabler) alone. Others get -EXDEV, and must let the owner close.
 * Freed by ur_ring_close(). A forked child gets -EXDEV as well: the queues are not mapped there. */
struct ur_ring {
    /* Submission queue. Entries before sq_head may be filled again. Those before sq_sent are submitted. Without SQPOLL both are
     * equal, because the kernel moves its head only during our io_uring_enter(2). */
    struct io_uring_sqe *sqes;
    uint32_t sq_head, sq_sent, sq_tail, sq_mask, sq_entries;
    uint32_t sqe_shift, cqe_shift;     /* 1 with SQE128, CQE32. Else 0 */
    /* Completion queue. */
    const struct io_uring_cqe *cqes;
    uint32_t *cq_khead, *cq_ktail;     /* NULL when not open */
    uint32_t cq_head, cq_mask, cq_entries;
    /* Operations in the kernel: submissions less terminal completions (without F_MORE). Operations for which ur_counted() is
     * false are not included. */
    int64_t in_flight;

    uint32_t *sq_khead, *sq_ktail;
    const uint32_t *sq_kflags, *cq_koverflow;
    int fd;                            /* of the ring. Valid only when DISABLED or LIVE */
    enum ur_ring_state state;
    uint32_t setup_flags, features;    /* as the kernel granted them */
    uint64_t owner;                    /* ur_thread_number() */
    int32_t owner_tid;                 /* for messages, and to find out whether the thread has ended */
    uint32_t forks;                    /* ur_fork_count() at open */
    uint32_t deny;                     /* of the options: UR_DENY_* */
    uint32_t workers[2];               /* the most io-wq threads, bounded and unbounded */
    int iowq_error;                    /* of IOWQ_MAX_WORKERS: 0 or -errno. Not fatal */
    uint32_t halvings;                 /* number of times that ENOMEM halved the entries */
    int undrained;                     /* after close: operations that did not end within the bound */
    uint32_t asked_entries, asked_cq_entries;   /* of the options, as they were given */
    bool asked_visible_work;
    bool restricted;                   /* to the operations of confined.c */
    void *sq_map, *cq_map;             /* the same with FEAT_SINGLE_MMAP */
    size_t sq_map_bytes, cq_map_bytes, sqes_bytes;
};

/* Opens with the best flag set that the kernel takes. On ENOMEM halves the entries, down to 8. -EPERM / -ENOSYS / -ENOMEM / ...
 * with the cause (sysctl, seccomp, memlock, old kernel) in `why`. NULL options: the defaults. */
int ur_ring_open(struct ur_ring *ring, const struct ur_ring_options *options, struct udpring_reason *why) UR_MUST_CHECK;
/* 0. -EBADF: closed. -EINVAL: not opened with `disabled`, or already enabled. */
int ur_ring_enable(struct ur_ring *ring) UR_MUST_CHECK;
/* Submits, then changes the sizes of the queues. See udpring_ring_resize(). */
int ur_ring_resize(struct ur_ring *ring, uint32_t entries, uint32_t cq_entries) UR_MUST_CHECK;
/* Closes a ring whose queues are lost. Its operations in flight count as not ended. Returns their number. */
int ur_ring_abandon(struct ur_ring *ring);
/* 0 when the caller may use the ring. -EBADF: closed or never opened. -EXDEV: another thread or a forked child.
 * -EBADFD: not enabled yet. */
int ur_ring_usable(const struct ur_ring *ring);

/* The first half of close. Retracts the entries that are not submitted, cancels all operations in flight, and discards
 * completions until all operations have ended or the bound (2 s) has passed. Returns how many did not end, or -EBADF / -EXDEV.
 * The ring stays open, so that its user can unregister. Nothing may be submitted afterwards. */
int ur_ring_stop(struct ur_ring *ring);
/* R5: stops, cancels everything, drains with a bound, unregisters, unmaps, closes. Returns 0, or the number of operations
 * that did not end within the bound. Their memory must then go to ur_graveyard_leak and never be freed. Idempotent.
 * -EXDEV: the caller is not the owner and the owner thread still runs. Nothing was done. Once the owner thread has ended, no
 * thread can cancel: the ring is closed without cancelling, and the operations in flight are returned as not ended.
 * In a forked child only the child's descriptor is closed, and 0 returned: the child's memory is its own copy. */
int ur_ring_close(struct ur_ring *ring);

/* Calls io_uring_register(2). Returns its result or -errno. -EXDEV and -EBADF as ur_ring_usable. */
int ur_ring_register(struct ur_ring *ring, enum io_uring_register_op opcode, const void *argument, uint32_t count);

/* Submits all queued entries (to_submit = tail - head, always). Returns how many the kernel took, or -errno. With SQPOLL the
 * kernel's thread takes them, and is woken if it sleeps.
 * EINTR is retried. EAGAIN and EBUSY leave the rest queued and return the number taken so far. */
int ur_submit(struct ur_ring *ring);
/* Submits, then waits until `want` completions are ready or `timeout_ns` has passed (negative: no limit. 0: poll, which still
 * runs task work). Returns 0, -ETIME, -EINTR (a signal, the caller decides) or another -errno. Among these:
 *   -EAGAIN (no memory) and -EBUSY (completion queue full, overflow backlog) are back-pressure: reap, then call again.
 *   -EBADR: the kernel had no memory to keep completions of a full queue, so some are lost (ur_cq_lost).
 * `want` is limited to the size of the completion queue. Completions that ur_cq_advance() has not passed yet count. */
int ur_submit_and_wait(struct ur_ring *ring, unsigned want, int64_t timeout_ns);
/* Runs deferred task work and fetches overflowed completions, if there are any (ur_work_pending). Does not submit or wait.
 * For a usable ring. */
int ur_run_deferred(struct ur_ring *ring);
/* Takes back up to n entries that are not submitted, newest first. Returns how many. A caller undoes a failed batch with it. */
unsigned ur_sqe_retract(struct ur_ring *ring, unsigned n);

/* Since open: completions that the kernel dropped because it had no memory. */
static inline uint32_t ur_cq_lost(const struct ur_ring *ring)
{
    return ring->cq_koverflow ? ur_relaxed(ring->cq_koverflow) : 0;
}

/* Whether the submission with this user_data has exactly one terminal completion. False for operations with CQE_SKIP_SUCCESS
 * (UR_KIND_SILENT) and for completions that no operation of this ring caused (UR_KIND_MESSAGE). */
static inline bool ur_counted(uint64_t user_data)
{
    _Static_assert(UR_KIND_SILENT == 6 && UR_KIND_MESSAGE == 7, "one comparison for both");
    return user_data >> 57 != 3;
}

static inline bool ur_polled(const struct ur_ring *ring)
{
    return ring->setup_flags & IORING_SETUP_SQPOLL;
}

static inline struct io_uring_sqe *ur_sqe_at(const struct ur_ring *ring, uint32_t i)
{
    return &ring->sqes[(i & ring->sq_mask) << ring->sqe_shift];
}

/* The number of entries that ur_sqe() can still return before a submit. */
static inline unsigned ur_sq_room(const struct ur_ring *ring)
{
    uint32_t head = ur_unlikely(ur_polled(ring)) ? ur_acquire(ring->sq_khead) : ring->sq_head;
    return ring->sq_entries - (ring->sq_tail - head);
}

/* The number of entries that are queued and not submitted. */
static inline unsigned ur_sq_queued(const struct ur_ring *ring)
{
    return ring->sq_tail - ring->sq_sent;
}

/* The next free SQE, zeroed, or NULL when the SQ is full (or the ring closed). The kernel reads it only at the next submit. The
 * caller fills all of it, including user_data. */
static inline struct io_uring_sqe *ur_sqe(struct ur_ring *ring)
{
    if (ur_unlikely(ring->sq_tail - ring->sq_head >= ring->sq_entries)) {
        if (!ur_polled(ring) || !ur_sq_room(ring))
            return NULL;
        ring->sq_head = ur_acquire(ring->sq_khead);
    }
    struct io_uring_sqe *sqe = ur_sqe_at(ring, ring->sq_tail++);
    memset(sqe, 0, sizeof(*sqe));
    if (ur_unlikely(ring->sqe_shift))
        memset(sqe + 1, 0, sizeof(*sqe));
    return sqe;
}

/* The number of ready entries of the completion queue: with CQE_MIXED a completion may have two, otherwise each has one. Does
 * not enter the kernel. */
static inline unsigned ur_cq_ready(const struct ur_ring *ring)
{
    return ur_likely(ring->cq_ktail != NULL) ? ur_acquire(ring->cq_ktail) - ring->cq_head : 0;
}

/* Whether io_uring_enter(2) with GETEVENTS would produce completions: deferred task work (visible only with TASKRUN_FLAG) or an
 * overflow backlog. */
static inline bool ur_work_pending(const struct ur_ring *ring)
{
    return ur_relaxed(ring->sq_kflags) & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN);
}

/* The i-th ready completion, 0 = oldest. i < ur_cq_ready(). Valid until ur_cq_advance() has passed it. */
static inline const struct io_uring_cqe *ur_cq_at(const struct ur_ring *ring, unsigned i)
{
    return &ring->cqes[((ring->cq_head + i) & ring->cq_mask) << ring->cqe_shift];
}

/* Whether the completion has 32 bytes, in two entries. With CQE32 all of them have one entry of 32 bytes. */
static inline bool ur_cqe_wide(const struct ur_ring *ring, const struct io_uring_cqe *cqe)
{
    return ur_unlikely(cqe->flags & IORING_CQE_F_32) && ring->setup_flags & IORING_SETUP_CQE_MIXED;
}

/* Whether the entry is no completion: the kernel puts one at the end of the queue where a wide one does not fit. */
static inline bool ur_cqe_filler(const struct ur_ring *ring, const struct io_uring_cqe *cqe)
{
    return ur_unlikely(cqe->flags & IORING_CQE_F_SKIP) && ring->setup_flags & IORING_SETUP_CQE_MIXED;
}

/* How many of the ready entries are second halves or fillers. */
unsigned ur_cq_surplus(const struct ur_ring *ring);

/* Returns the n oldest entries to the kernel, in one store. n <= ur_cq_ready(), and not between two halves. */
static inline void ur_cq_advance(struct ur_ring *ring, unsigned n)
{
    if (!n)
        return;
    for (unsigned i = 0; i < n; i++) {
        const struct io_uring_cqe *cqe = ur_cq_at(ring, i);
        ring->in_flight -= !(cqe->flags & IORING_CQE_F_MORE) && ur_counted(cqe->user_data) && !ur_cqe_filler(ring, cqe);
        i += ur_cqe_wide(ring, cqe);
    }
    ring->cq_head += n;
    ur_release(ring->cq_khead, ring->cq_head);
}
#endif
