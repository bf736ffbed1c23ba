/* The decision to pause, and whether many datagrams come, by themselves. */
#include "tunnel/worker/moderation.h"

#include <stdlib.h>

#include "tunnel/worker/level.h"
#include "tunnel/worker/sparse.h"

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

struct udpring_level {
    struct level level;
};

struct udpring_level *udpring_level_new(void)
{
    return calloc(1, sizeof(struct udpring_level));
}

void udpring_level_free(struct udpring_level *level)
{
    free(level);
}

int32_t udpring_level_high(struct udpring_level *level, uint64_t now_ns, uint64_t count, uint32_t a_second)
{
    return level_high(&level->level, now_ns, count, a_second);
}

struct udpring_sparse {
    struct sparse sparse;
};

struct udpring_sparse *udpring_sparse_new(void)
{
    return calloc(1, sizeof(struct udpring_sparse));
}

void udpring_sparse_free(struct udpring_sparse *sparse)
{
    free(sparse);
}

uint64_t udpring_sparse_until(struct udpring_sparse *sparse, uint32_t flow, int32_t super_packet, uint64_t now_ns)
{
    return sparse_until(&sparse->sparse, flow, super_packet != 0, now_ns);
}
