/* The weight of workers, of the calling thread. */
#include "tunnel/worker/weight.h"

#include <stdlib.h>

#include "abi.h"

enum { WORKERS = 2 };

struct udpring_weight {
    struct weight weight;
    struct own_weight own[WORKERS];
};

struct udpring_weight *udpring_weight_new(int32_t nice, int32_t group_fd, int32_t group_usual)
{
    struct udpring_weight *made = calloc(1, sizeof(*made));
    if (made) {
        weight_open(&made->weight);
        weight_ask(&made->weight, nice, group_fd, group_usual);
    }
    return made;
}

void udpring_weight_free(struct udpring_weight *weight)
{
    weight_close(&weight->weight);
    free(weight);
}

int32_t udpring_weight_see(struct udpring_weight *weight, uint32_t worker, int32_t many, uint64_t now_ns)
{
    weight_see(&weight->weight, &weight->own[worker], many, now_ns);
    return weight_now(&weight->weight, &weight->own[worker]);
}

int64_t udpring_weight_patience(struct udpring_weight *weight, uint32_t worker)
{
    return weight_patience(&weight->weight, &weight->own[worker]);
}
