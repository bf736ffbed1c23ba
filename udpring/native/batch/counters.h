/* Counters that one thread keeps and any may read: the owner publishes them at the end of each call, word by word, so that
 * a reader in another thread sees each as it was at some moment, and no data race. */
#ifndef UDPRING_BATCH_COUNTERS_H
#define UDPRING_BATCH_COUNTERS_H
#include "../base.h"

/* Both structs hold uint64_t only; `bytes` is their size. Owner's thread alone. */
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
