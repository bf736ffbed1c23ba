#include "datagram_rate.h"

#include "../limits.h"

bool datagram_rate_many(struct datagram_rate *rate, uint64_t now, uint64_t datagrams)
{
    uint64_t elapsed = now - rate->window_ns;
    if (ur_likely(elapsed < MODERATION_WINDOW_NS && rate->window_ns))
        return rate->many;
    if (rate->window_ns) {
        double a_second = (double)(datagrams - rate->datagrams) * (double)NS_PER_S / (double)elapsed;
        rate->run = (a_second >= DATAGRAMS_MANY) != rate->many ? rate->run + 1 : 0;
        if (rate->run >= MODERATION_RUN) {
            rate->many = !rate->many;
            rate->run = 0;
        }
    }
    rate->window_ns = now;
    rate->datagrams = datagrams;
    return rate->many;
}
