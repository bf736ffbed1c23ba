/* A token bucket. */
#ifndef UDPRING_TUNNEL_RATE_H
#define UDPRING_TUNNEL_RATE_H
#include "../base.h"

/* Owner: a worker. Thread: that worker. Nothing to free. All zeros is a full bucket. */
struct rate {
    uint32_t tokens;
    uint64_t refilled_ns;       /* the last token came then */
};

/* Brings it up to `now`: a token each `token_ns`, at most `most`. Returns how many there are. */
static inline uint32_t rate_refill(struct rate *rate, uint64_t now, uint64_t token_ns, uint32_t most)
{
    uint64_t more = (now - rate->refilled_ns) / token_ns;
    if (rate->tokens + more >= most) {
        rate->tokens = most;
        rate->refilled_ns = now;
    } else {
        rate->tokens += (uint32_t)more;
        rate->refilled_ns += more * token_ns;
    }
    return rate->tokens;
}

/* How many ns until there are `wanted`. 0: there are. */
static inline int64_t rate_lacks(const struct rate *rate, uint64_t token_ns, uint32_t wanted)
{
    return rate->tokens < wanted ? (int64_t)((wanted - rate->tokens) * token_ns) : 0;
}
#endif
