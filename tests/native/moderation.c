/* The decision to pause, and whether many datagrams come, by themselves. */
#include "tunnel/worker/moderation.h"

#include <stdlib.h>

#include "tunnel/worker/datagram_rate.h"

#include "abi.h"

struct udpring_moderation {
    struct moderation moderation;
};

struct udpring_moderation *udpring_moderation_new(void)
{
    return calloc(1, sizeof(struct udpring_moderation));
}

void udpring_moderation_free(struct udpring_moderation *moderation)
{
    free(moderation);
}

uint64_t udpring_moderation_wait(struct udpring_moderation *moderation, uint64_t now_ns, uint64_t items, uint64_t passes)
{
    return moderation_wait(&moderation->moderation, now_ns, items, passes);
}

struct udpring_datagram_rate {
    struct datagram_rate rate;
};

struct udpring_datagram_rate *udpring_datagram_rate_new(void)
{
    return calloc(1, sizeof(struct udpring_datagram_rate));
}

void udpring_datagram_rate_free(struct udpring_datagram_rate *rate)
{
    free(rate);
}

int32_t udpring_datagram_rate_many(struct udpring_datagram_rate *rate, uint64_t now_ns, uint64_t datagrams)
{
    return datagram_rate_many(&rate->rate, now_ns, datagrams);
}
