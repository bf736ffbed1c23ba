/* Counts sizes by powers of two. */
#ifndef UDPRING_TUNNEL_WORKER_HISTOGRAM_H
#define UDPRING_TUNNEL_WORKER_HISTOGRAM_H
#include "../../base.h"

#include "../abi.h"

static inline void histogram_count(struct udpring_histogram *histogram, uint64_t size)
{
    unsigned bucket = size <= 1 ? 0 : 64u - (unsigned)__builtin_clzll(size - 1);
    if (ur_unlikely(bucket >= UDPRING_HISTOGRAM_BUCKETS))
        bucket = UDPRING_HISTOGRAM_BUCKETS - 1;
    histogram->buckets[bucket]++;
    histogram->sum += size;
}
#endif
