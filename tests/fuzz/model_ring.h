/* The surroundings of a Python ring: the calling thread, forks, and the tiers that work (recv.wrap, send.wrap). */
#ifndef UDPRING_FUZZ_MODEL_RING_H
#define UDPRING_FUZZ_MODEL_RING_H
#include <stdint.h>

extern uint32_t ring_thread;   /* the number of the calling thread */
extern uint32_t ring_forks;    /* forks of the process so far */
extern uint32_t ring_tiers;    /* bit n: tier n works */
#endif
