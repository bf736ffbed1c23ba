/* The memory ordering of the shared rings, in one place (io_uring_setup(2), io_uring_enter(2)). After an acquire of the
 * kernel's index we see the entries that it wrote before. After our release of our index the kernel sees the entries that we
 * wrote. */
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

/* For flags and counters that need no ordering. */
static inline uint32_t ur_relaxed(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}
#endif
