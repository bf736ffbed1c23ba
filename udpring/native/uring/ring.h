/* One io_uring instance: set-up, submission and completion queue, entering the kernel, closing.
 * General: nothing here knows of UDP. Sources: io_uring_setup(2), io_uring_enter(2), io_uring_register(2).
 *
 * Flow of one pass:
 *   1. ur_sqe() gives the next free entry; the caller fills it wholly, user_data included.
 *   2. ur_submit_and_wait() publishes the tail once, enters the kernel once, and counts what the kernel took.
 *   3. ur_cq_ready() / ur_cq_at() look at the completions; ur_cq_advance() gives them back in one store.
 *   4. ur_ring_close() cancels what is still in flight and waits for it before anything is unmapped (R5).
 *
 * What is where: setup.c opens, explain.c words the failures, queue.c submits and waits, close.c ends, register.c registers. */
#ifndef UDPRING_URING_RING_H
#define UDPRING_URING_RING_H
#include "../base.h"

#include "barrier.h"
#include "kernel.h"   /* the kernel ABI, own header with static asserts */
#include "ops.h"

#define UR_ENTRIES_DEFAULT 256u
#define UR_ENTRIES_LEAST 8u

/* In flags_deny, for tests: close as on kernels before 5.19, which cannot cancel everything at once; map the queues one by
 * one, as before 5.4. */
#define UR_DENY_CANCEL_ANY (1u << 31)
#define UR_DENY_SINGLE_MMAP (1u << 30)

struct ur_ring_options {
    uint32_t entries;     /* SQ entries wanted; 0 = 256, least 8; rounded up to a power of two, clamped to 32768 */
    uint32_t cq_entries;  /* CQ entries wanted; 0 = 4 x entries; fewer than the SQ's is -EINVAL; clamped to 65536 */
    uint32_t flags_deny;  /* IORING_SETUP_* bits never to be asked for (tests and fallbacks): sets with one are skipped.
                           * Also UR_DENY_* */
    bool visible_work;    /* with DEFER_TASKRUN also TASKRUN_FLAG: for who sleeps on a registered eventfd (ur_work_pending) */
    bool disabled;        /* start with R_DISABLED: the thread that calls ur_ring_enable() becomes the owner */
};

enum ur_ring_state {
    UR_RING_NONE = 0,     /* zeroed memory, never opened */
    UR_RING_DISABLED,     /* opened with R_DISABLED, not enabled yet: no owner */
    UR_RING_LIVE,
    UR_RING_CLOSED,
};

/* Owner: whoever embeds it. Thread: the creator (or enabler) alone; any other gets -EXDEV and must let the owner close.
 * Freed by ur_ring_close(). A forked child gets -EXDEV as well: the queues are not mapped there. */
struct ur_ring {
    /* Submission queue. Local head and tail: the kernel moves its head only inside an enter of ours (no SQPOLL). */
    struct io_uring_sqe *sqes;
    uint32_t sq_head, sq_tail, sq_mask, sq_entries;
    /* Completion queue. */
    const struct io_uring_cqe *cqes;
    uint32_t *cq_khead, *cq_ktail;     /* NULL when not open */
    uint32_t cq_head, cq_mask, cq_entries;
    /* Operations the kernel took and has not ended: submitted - terminal completions (no F_MORE). What ur_counted()
     * refuses is not in it. */
    int64_t in_flight;

    uint32_t *sq_khead, *sq_ktail;
    const uint32_t *sq_kflags, *sq_kdropped, *cq_koverflow;
    int fd;                            /* of the ring; only when DISABLED or LIVE */
    enum ur_ring_state state;
    uint32_t setup_flags, features;    /* as the kernel granted them */
    uint64_t owner;                    /* ur_thread_number() */
    int32_t owner_tid;                 /* for messages, and to see whether it still lives */
    uint32_t forks;                    /* ur_fork_count() at open */
    uint32_t deny;                     /* of the options: UR_DENY_* */
    int iowq_error;                    /* of IOWQ_MAX_WORKERS: 0 or -errno; not fatal */
    uint32_t halvings;                 /* how often ENOMEM halved the entries */
    int undrained;                     /* after close: operations that did not end within the bound */
    void *sq_map, *cq_map;             /* the same with FEAT_SINGLE_MMAP */
    size_t sq_map_bytes, cq_map_bytes, sqes_bytes;
};

/* Opens with the best flag set the kernel takes; halves entries on ENOMEM down to 8; -EPERM / -ENOSYS / -ENOMEM / ...
 * with the cause (sysctl, seccomp, memlock, old kernel) in `why`. NULL options: the defaults. */
int ur_ring_open(struct ur_ring *ring, const struct ur_ring_options *options, struct udpring_reason *why) UR_MUST_CHECK;
/* 0; -EBADF closed; -EINVAL not opened disabled, or enabled already. */
int ur_ring_enable(struct ur_ring *ring) UR_MUST_CHECK;
/* 0 when the caller may use the ring; -EBADF closed or never opened, -EXDEV another thread or a forked child,
 * -EBADFD not enabled yet. */
int ur_ring_usable(const struct ur_ring *ring);

/* The first half of close: what is queued and not submitted is retracted, everything in flight is cancelled, and
 * completions are discarded until all operations ended or the bound (2 s) passed. Returns how many did not end, or
 * -EBADF / -EXDEV. The ring stays open, so that its user can unregister; nothing may be submitted after it. */
int ur_ring_stop(struct ur_ring *ring);
/* R5: stops, cancels everything, drains with a bound, unregisters, unmaps, closes. 0, or the number of operations
 * that did not end within the bound (their memory must then be given to ur_graveyard_leak, never freed). Idempotent.
 * -EXDEV from a thread that is not the owner while the owner lives: nothing was done. When the owner thread has ended,
 * nobody can cancel any more: the ring is closed without, and what was in flight is returned as not ended.
 * In a forked child only the child's descriptor is closed, and 0 returned: its memory is its own copy. */
int ur_ring_close(struct ur_ring *ring);

/* Registers with io_uring_register(2): its result or -errno; -EXDEV, -EBADF as ur_ring_usable. */
int ur_ring_register(struct ur_ring *ring, enum io_uring_register_op opcode, const void *argument, uint32_t count);

/* Submits all that is queued (to_submit = tail - head, always). Returns how many the kernel took, or -errno.
 * EINTR is retried; EAGAIN and EBUSY leave the rest queued and return what was taken so far. */
int ur_submit(struct ur_ring *ring);
/* The same and waits until `want` completions are there or `timeout_ns` passed (negative: no limit; 0: poll, which
 * still runs task work). Returns 0, -ETIME, -EINTR (a signal came: the caller decides) or another -errno; of those,
 * -EAGAIN (no memory) and -EBUSY (completion queue full, backlog waiting) are back-pressure: reap, then call again; -EBADR:
 * the kernel had no memory to keep completions of a full queue, some are lost (ur_cq_lost).
 * `want` above the size of the completion queue is taken as that size. Completions not yet given back count. */
int ur_submit_and_wait(struct ur_ring *ring, unsigned want, int64_t timeout_ns);
/* Takes back up to n entries that the kernel has not seen, newest first; returns how many. A failing batch leaves nothing. */
unsigned ur_sqe_retract(struct ur_ring *ring, unsigned n);

/* Completions the kernel dropped for want of memory, and SQ entries it dropped as invalid, since open. */
static inline uint32_t ur_cq_lost(const struct ur_ring *ring)
{
    return ring->cq_koverflow ? ur_relaxed(ring->cq_koverflow) : 0;
}

static inline uint32_t ur_sq_dropped(const struct ur_ring *ring)
{
    return ring->sq_kdropped ? ur_relaxed(ring->sq_kdropped) : 0;
}

/* Whether exactly one terminal completion belongs to this user_data's submission. Not so for operations with
 * CQE_SKIP_SUCCESS and for completions that no operation of this ring caused (UR_KIND_SILENT, UR_KIND_MESSAGE). */
static inline bool ur_counted(uint64_t user_data)
{
    _Static_assert(UR_KIND_SILENT == 6 && UR_KIND_MESSAGE == 7, "one comparison for both");
    return user_data >> 57 != 3;
}

/* Entries that ur_sqe() will still give before a submit. */
static inline unsigned ur_sq_room(const struct ur_ring *ring)
{
    return ring->sq_entries - (ring->sq_tail - ring->sq_head);
}

/* Queued, not yet taken by the kernel. */
static inline unsigned ur_sq_queued(const struct ur_ring *ring)
{
    return ring->sq_tail - ring->sq_head;
}

/* The next free SQE, zeroed, or NULL when the SQ is full (or the ring closed). The kernel sees it at the next submit, not
 * before. The caller fills it wholly, user_data included. */
static inline struct io_uring_sqe *ur_sqe(struct ur_ring *ring)
{
    if (ur_unlikely(ring->sq_tail - ring->sq_head >= ring->sq_entries))
        return NULL;
    struct io_uring_sqe *sqe = &ring->sqes[ring->sq_tail++ & ring->sq_mask];
    memset(sqe, 0, sizeof(*sqe));
    return sqe;
}

/* The same, submitting first when the SQ is full; NULL only when the kernel takes nothing. */
static inline struct io_uring_sqe *ur_sqe_or_submit(struct ur_ring *ring)
{
    struct io_uring_sqe *sqe = ur_sqe(ring);
    if (ur_likely(sqe != NULL))
        return sqe;
    return ur_submit(ring) > 0 ? ur_sqe(ring) : NULL;
}

/* How many completions can be looked at. Does not enter the kernel. */
static inline unsigned ur_cq_ready(const struct ur_ring *ring)
{
    return ur_likely(ring->cq_ktail != NULL) ? ur_acquire(ring->cq_ktail) - ring->cq_head : 0;
}

/* Whether an enter with GETEVENTS would bring completions: deferred work (seen only with TASKRUN_FLAG) or a backlog. */
static inline bool ur_work_pending(const struct ur_ring *ring)
{
    return ur_relaxed(ring->sq_kflags) & (IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN);
}

/* The i-th ready completion, 0 = oldest; i < ur_cq_ready(). Valid until ur_cq_advance() has passed it. */
static inline const struct io_uring_cqe *ur_cq_at(const struct ur_ring *ring, unsigned i)
{
    return &ring->cqes[(ring->cq_head + i) & ring->cq_mask];
}

/* Gives the n oldest back: one store. n <= ur_cq_ready(). */
static inline void ur_cq_advance(struct ur_ring *ring, unsigned n)
{
    if (!n)
        return;
    for (unsigned i = 0; i < n; i++) {
        const struct io_uring_cqe *cqe = ur_cq_at(ring, i);
        ring->in_flight -= !(cqe->flags & IORING_CQE_F_MORE) && ur_counted(cqe->user_data);
    }
    ring->cq_head += n;
    ur_release(ring->cq_khead, ring->cq_head);
}
#endif
