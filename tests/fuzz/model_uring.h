/* io_uring as the model's kernel has it: queues in memory, operations on the model's files. What io_uring_setup(2) and its kin
 * promise holds; beyond that it completes as late, and with as many strangers' completions between, as the harness says. */
#ifndef UDPRING_FUZZ_MODEL_URING_H
#define UDPRING_FUZZ_MODEL_URING_H
#include "input.h"
#include "uring/kernel.h"

/* Posts a completion that no operation of the core caused, to the n-th ring; nothing where there is none. */
void uring_post_stray(uint32_t ring, uint64_t user_data, int32_t result, uint32_t flags);
/* The user_data of an operation that has ended on the n-th ring; 0: none has. */
uint64_t uring_ended(uint32_t ring);
void uring_reset(void);

/* While set, no operation but a cancel is carried out: the harness completes them as it likes. */
extern bool uring_by_hand;
/* The n-th operation in flight on the ring, or NULL. */
const struct io_uring_sqe *uring_in_flight(uint32_t ring, uint32_t n);
/* Completes it; it stays in flight with F_MORE. */
void uring_complete(uint32_t ring, uint32_t n, int32_t result, uint32_t flags);
/* The next buffer of the operation's group, which is then used; NULL: the group is empty. */
struct io_uring_buf *uring_take_buffer(uint32_t ring, const struct io_uring_sqe *sqe);

/* As kernels differ: set-up flags that this one does not know; whether it cancels by user_data alone (before 5.19). */
extern uint32_t uring_unknown_flags;
extern bool uring_cancels_one;
/* While set, what is in flight cannot be cancelled. */
extern bool uring_stuck;
/* The next enters fail with this errno, before or after they took submissions. */
extern struct uring_failing { int error; uint32_t enters; bool after; } uring_failing;
/* Something came outside of the core's calls: where the ring has deferred work it says so, and raises its eventfd. */
void uring_poke(void);
/* Sends without a copy whose notification is due: gives the n-th, in order; false: there is none. The payload must still be as it
 * was sent. */
bool uring_notify(uint32_t n, bool copied);
/* A send without a copy that fails is followed by a notification, too. */
extern bool uring_notifies_failures;

/* Of model_syscalls.c: a ring's descriptor, and its memory. */
void *uring_map(int fd, uint64_t offset);   /* NULL: no ring of ours */
#endif
