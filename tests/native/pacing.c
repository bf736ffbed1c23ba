/* The decision to yield, by itself. */
#include "tunnel/worker/pacing.h"

#include <stdlib.h>

#include "abi.h"

struct udpring_pacing {
    struct pacing pacing;
};

struct udpring_pacing *udpring_pacing_new(void)
{
    return calloc(1, sizeof(struct udpring_pacing));
}

void udpring_pacing_free(struct udpring_pacing *pacing)
{
    free(pacing);
}

int32_t udpring_pacing_due(struct udpring_pacing *pacing, uint64_t now_ns, uint64_t datagrams)
{
    return pacing_due(&pacing->pacing, now_ns, datagrams);
}

void udpring_pacing_gave_way(struct udpring_pacing *pacing, uint64_t began_ns, uint64_t ended_ns)
{
    pacing_gave_way(&pacing->pacing, began_ns, ended_ns);
}
