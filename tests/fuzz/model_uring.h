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

/* Of model_syscalls.c: a ring's descriptor, and its memory. */
void *uring_map(int fd, uint64_t offset);   /* NULL: no ring of ours */
#endif
