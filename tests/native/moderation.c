/* The decision to pause, by itself. */
#include "tunnel/worker/moderation.h"

#include <stdlib.h>

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

int32_t udpring_moderation_many(const struct udpring_moderation *moderation)
{
    return moderation->moderation.many;
}
