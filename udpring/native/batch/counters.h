/* Counters that one thread writes and any thread may read. The owner publishes them at the end of each call, word by word with
 * atomic stores. So a reader in another thread sees a valid value of each counter, without a data race. */
#ifndef UDPRING_BATCH_COUNTERS_H
#define UDPRING_BATCH_COUNTERS_H
#include "../base.h"

/* Owner's thread only. Both structs consist of uint64_t. `bytes` is their size. */
static inline void udp_counters_publish(void *published, const void *counters, size_t bytes)
{
    uint64_t *to = published;
    const uint64_t *from = counters;
    for (size_t i = 0; i < bytes / sizeof(*to); i++)
        __atomic_store_n(&to[i], from[i], __ATOMIC_RELAXED);
}

/* Any thread. */
static inline void udp_counters_read(void *out, const void *published, size_t bytes)
{
    uint64_t *to = out;
    const uint64_t *from = published;
    for (size_t i = 0; i < bytes / sizeof(*to); i++)
        to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
}
#endif
