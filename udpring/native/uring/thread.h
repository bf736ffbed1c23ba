/* Identifies the caller: a number for each thread, never reused, and a count of forks. Both are cheap enough for each
 * io_uring_enter(2). */
#ifndef UDPRING_URING_THREAD_H
#define UDPRING_URING_THREAD_H
#include <stdint.h>

/* This thread's number, from 1. It stays the same, and no other thread gets it, even after this one has ended. */
uint64_t ur_thread_number(void);
/* The number of fork()s between the program's first ring and this process, so it differs in a child. */
uint32_t ur_fork_count(void);
/* Call before the first ur_fork_count(). 0 or -ENOMEM. */
int ur_fork_watch(void);
#endif
