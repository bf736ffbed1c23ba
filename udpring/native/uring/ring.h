/* One io_uring instance: set-up, submission and completion queue, entering the kernel, closing.
 * General: nothing here knows of UDP. Sources: io_uring_setup(2), io_uring_enter(2), io_uring_register(2). */
#ifndef UDPRING_URING_RING_H
#define UDPRING_URING_RING_H
#include "../base.h"
#include "kernel.h"   /* the kernel ABI, own header with static asserts */

struct ur_ring_options {
    uint32_t entries;     /* SQ entries wanted; 0 = 256, least 8; rounded up to a power of two, clamped by the kernel */
    uint32_t cq_entries;  /* CQ entries wanted; 0 = 4 x entries */
    uint32_t flags_deny;  /* IORING_SETUP_* bits never to be asked for (tests and fallbacks) */
    bool disabled;        /* start with R_DISABLED: the thread that calls ur_ring_enable() becomes the owner */
};

/* Owner: whoever embeds it. Thread: the creator (or enabler) alone, but for ur_ring_close after that thread ended
 * is not allowed either: the owner closes. Freed by ur_ring_close(). */
struct ur_ring;   /* defined in this header by its implementer, so that the inline accessors below can see it */

/* Opens with the best flag set the kernel takes; halves entries on ENOMEM down to 8; -EPERM / -ENOSYS / -ENOMEM / ...
 * with the cause (sysctl, seccomp, memlock, old kernel) in `why`. */
int ur_ring_open(struct ur_ring *ring, const struct ur_ring_options *options, struct udpring_reason *why) UR_MUST_CHECK;
int ur_ring_enable(struct ur_ring *ring) UR_MUST_CHECK;
/* R5: stops, cancels everything, drains with a bound, unregisters, unmaps, closes. 0, or the number of operations
 * that did not end within the bound (their memory must then be given to ur_graveyard_leak, never freed). Idempotent. */
int ur_ring_close(struct ur_ring *ring);

/* The next free SQE, zeroed, or NULL when the SQ is full. The kernel sees it at the next submit, not before.
 * The caller fills it wholly, user_data included. */
struct io_uring_sqe *ur_sqe(struct ur_ring *ring);
/* The same, submitting first when the SQ is full; NULL only when the kernel takes nothing. */
struct io_uring_sqe *ur_sqe_or_submit(struct ur_ring *ring);

/* Submits all that is queued (to_submit = tail - head, always). Returns how many the kernel took, or -errno.
 * EINTR is retried; EAGAIN and EBUSY leave the rest queued and return what was taken so far. */
int ur_submit(struct ur_ring *ring);
/* The same and waits until `want` completions are there or `timeout_ns` passed (negative: no limit; 0: poll, which
 * still runs task work). Returns 0, -ETIME, -EINTR (a signal came: the caller decides) or another -errno. */
int ur_submit_and_wait(struct ur_ring *ring, unsigned want, int64_t timeout_ns);

/* Completions: look at the i-th ready one (0 = oldest), then give n of them back in one store. */
/* static inline unsigned ur_cq_ready(const struct ur_ring *ring); */
/* static inline const struct io_uring_cqe *ur_cq_at(const struct ur_ring *ring, unsigned i); */
/* static inline void ur_cq_advance(struct ur_ring *ring, unsigned n); */
#endif
