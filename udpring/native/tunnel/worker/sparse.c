#include "sparse.h"

#include "../limits.h"

uint64_t sparse_until(struct sparse *sparse, uint32_t number, bool super_packet, uint64_t now)
{
    struct sparse_flow *flow = &sparse->flow[number % FLOW_QUEUES];
    uint64_t gap = now - flow->last_ns;
    bool known = flow->last_ns && gap <= SPARSE_GAP_MAX_NS;
    flow->last_ns = now;
    flow->run = known && gap < SPARSE_GAP_MIN_NS ? flow->run + 1 : 0;
    if (super_packet || flow->run >= SPARSE_RUN)
        flow->busy_until_ns = now + SPARSE_BUSY_NS;
    if (ur_likely(!known || gap < SPARSE_GAP_MIN_NS || now < flow->busy_until_ns))
        return 0;
    return now + (2 * gap > SPARSE_HOLD_NS ? 2 * gap : SPARSE_HOLD_NS);
}
