/* Threads without concurrency: what pthread_create() starts is a fiber that runs until it waits, so that one input always takes
 * the same course. Calls that wait (ppoll and its kind) come here; a caller in pthread_cond_wait() lets the fibers run. */
#ifndef UDPRING_FUZZ_MODEL_THREADS_H
#define UDPRING_FUZZ_MODEL_THREADS_H
#include "input.h"

/* The clock that all of the core reads, in ns. */
extern uint64_t threads_now_ns;
/* While set, threads are fibers. */
extern bool threads_active;

/* Runs all fibers until each waits for something that is not there yet. */
void threads_run(void);
/* Lets the clock run on by this much, and the fibers at every deadline on the way. */
void threads_pass_time(uint64_t ns);
/* Called by a fiber: until `ready` says so or the deadline (UINT64_MAX: none) has come. False: the deadline. */
bool threads_wait(bool (*ready)(void *context), void *context, uint64_t deadline_ns);
/* What to try while the harness's own thread waits and nothing comes, before the clock moves; true: look again. NULL: nothing. */
extern bool (*threads_idle)(void);
/* So many times from now, whoever calls this lets the others run first. */
extern uint32_t threads_switches;
void threads_give_way(void);
/* Forgets all fibers; they must have ended. */
void threads_reset(void);
#endif
