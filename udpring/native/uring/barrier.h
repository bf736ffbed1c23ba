/* The memory ordering of the shared rings, in one place (io_uring_setup(2), io_uring_enter(2)): what the other side wrote
 * before its index is read after an acquire of that index; what we wrote is seen after our release of ours. */
#ifndef UDPRING_URING_BARRIER_H
#define UDPRING_URING_BARRIER_H
#include <stdint.h>

static inline uint32_t ur_acquire(const uint32_t *index)
{
    return __atomic_load_n(index, __ATOMIC_ACQUIRE);
}

static inline void ur_release(uint32_t *index, uint32_t value)
{
    __atomic_store_n(index, value, __ATOMIC_RELEASE);
}

static inline void ur_release16(uint16_t *index, uint16_t value)
{
    __atomic_store_n(index, value, __ATOMIC_RELEASE);
}

/* Flags and counters that order nothing. */
static inline uint32_t ur_relaxed(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}
#endif
