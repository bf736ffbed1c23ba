#include "pacing.h"

#include "../limits.h"

bool pacing_due(struct pacing *pacing, uint64_t now, uint64_t datagrams)
{
    if (datagrams - pacing->datagrams < PACING_DATAGRAMS)
        return false;
    pacing->datagrams = datagrams;
    return now >= pacing->not_before_ns;
}

void pacing_gave_way(struct pacing *pacing, uint64_t began, uint64_t ended)
{
    uint64_t took = ended - began;
    if (took > PACING_LONG_NS)
        pacing->not_before_ns = ended + took * PACING_REST;
}
