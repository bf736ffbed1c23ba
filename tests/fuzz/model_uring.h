/* The io_uring of the model's kernel: queues in memory, operations on the model's files. It keeps the promises of
 * io_uring_setup(2)
 * and io_uring_enter(2). Beyond them, the harness decides how late completions come and how many stray ones lie between. */
#ifndef UDPRING_FUZZ_MODEL_URING_H
#define UDPRING_FUZZ_MODEL_URING_H
#include "input.h"
#include "uring/kernel.h"

/* Posts a completion without an operation of the core to the n-th ring, if it exists. */
void uring_post_stray(uint32_t ring, uint64_t user_data, int32_t result, uint32_t flags);
/* The user_data of an ended operation of the n-th ring. 0: none has ended. */
uint64_t uring_ended(uint32_t ring);
void uring_reset(void);

/* While set, only cancels are executed. The harness completes all other operations. */
extern bool uring_by_hand;
/* The n-th operation in flight on the ring, or NULL. */
const struct io_uring_sqe *uring_in_flight(uint32_t ring, uint32_t n);
/* Completes it. With F_MORE it stays in flight. */
void uring_complete(uint32_t ring, uint32_t n, int32_t result, uint32_t flags);
/* Takes the next buffer of the operation's group. NULL: the group is empty. */
struct io_uring_buf *uring_take_buffer(uint32_t ring, const struct io_uring_sqe *sqe);

/* Differences between kernels: unknown set-up flags, and whether it cancels only by user_data (before 5.19). */
extern uint32_t uring_unknown_flags;
extern bool uring_cancels_one;
/* While set, operations in flight cannot be cancelled. */
extern bool uring_stuck;
/* The next enters fail with this errno, before or after they took submissions. */
extern struct uring_failing { int error; uint32_t enters; bool after; } uring_failing;
/* Something happened outside the core's calls: a ring with deferred work sets its flag and signals its eventfd. */
void uring_poke(void);
/* Zero-copy sends with a due notification: posts the n-th, in order. False: there is none. The payload must still be as it
 * was sent. */
bool uring_notify(uint32_t n, bool copied);
/* A failed zero-copy send is followed by a notification too. */
extern bool uring_notifies_failures;

/* Of model_syscalls.c: a ring's descriptor, and its memory. */
void *uring_map(int fd, uint64_t offset);   /* NULL: not one of the model's rings */
#endif
