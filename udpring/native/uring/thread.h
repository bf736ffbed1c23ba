/* Who is calling: a number per thread that is never used twice, and a count of forks. Both cheap enough for every enter. */
#ifndef UDPRING_URING_THREAD_H
#define UDPRING_URING_THREAD_H
#include <stdint.h>

/* This thread's number, from 1. A thread keeps it; another thread never gets it, also after the first ended. */
uint64_t ur_thread_number(void);
/* How many fork()s lie between the first ring of the program and this process: differs in a child. */
uint32_t ur_fork_count(void);
/* Must have run before the first ur_fork_count() that matters; 0 or -ENOMEM. */
int ur_fork_watch(void);
#endif
