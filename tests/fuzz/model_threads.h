/* Threads without concurrency. pthread_create() starts a fiber that runs until it waits, so one input always takes the same
 * course.
 * Waiting calls (ppoll and the like) come here. A caller in pthread_cond_wait() lets the fibers run. */
#ifndef UDPRING_FUZZ_MODEL_THREADS_H
#define UDPRING_FUZZ_MODEL_THREADS_H
#include "input.h"

/* The clock for all of the core, in ns. */
extern uint64_t threads_now_ns;
/* While set, threads are fibers. */
extern bool threads_active;

/* Runs all fibers until each waits for something that is not ready. */
void threads_run(void);
/* Advances the clock by this much, and runs the fibers at every deadline on the way. */
void threads_pass_time(uint64_t ns);
/* For fibers: waits until `ready` returns true, or until the deadline (UINT64_MAX: none). False: the deadline passed. */
bool threads_wait(bool (*ready)(void *context), void *context, uint64_t deadline_ns);
/* Tried while the harness's own thread waits, before the clock advances. True: look again. NULL: nothing. */
extern bool (*threads_idle)(void);
/* Starting now, this many calls let the other fibers run first. */
extern uint32_t threads_switches;
void threads_give_way(void);
/* Forgets all fibers, which must have ended. */
void threads_reset(void);
#endif
