/* Completions of a bundle: one receive that filled several provided buffers, in their order in the buffer ring. */
#include "owned.h"

/* How many entries before the tail the kernel's latest use of a buffer is. 0: nowhere. */
static uint32_t distance(const struct ur_bufring *ring, uint16_t id)
{
    for (uint32_t back = 1; back <= ring->count; back++)
        if (ring->entries[(uint16_t)(ring->tail - back) & (ring->count - 1)].bid == id)
            return back;
    return 0;
}

bool ur_bundle_gather(struct udpring_ring *self, const struct ur_slot *slot, const struct io_uring_cqe *cqe,
                      struct udpring_completion *out)
{
    struct ur_group *group = &self->groups[slot->group];
    if (!slot->bundle || !group->ring.entries || !(cqe->flags & IORING_CQE_F_BUFFER) || cqe->res <= 0 || (uint32_t)cqe->res <= group->bytes)
        return false;
    uint32_t back = distance(&group->ring, (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT));
    uint32_t length = (uint32_t)cqe->res, buffers = (length + group->bytes - 1) / group->bytes, done = 0;
    if (buffers > back)
        return false;   /* no kernel does this */
    uint8_t *block = ur_pool_take(&self->pool, length);
    uint16_t first = (uint16_t)(group->ring.tail - back);
    for (uint32_t i = 0; i < buffers; i++) {
        uint16_t id = group->ring.entries[(uint16_t)(first + i) & (group->ring.count - 1)].bid;
        uint32_t part = length - done < group->bytes ? length - done : group->bytes;
        if (block)
            memcpy(block + done, group->memory + (size_t)id * group->bytes, part);
        done += part;
        ur_group_recycle(group, id);
    }
    ur_bufring_publish(&group->ring);
    out->data = block;
    out->length = block ? length : 0;
    if (!block)
        out->result = -ENOMEM;
    self->lent[self->lent_count].block = block;
    self->lent[self->lent_count].bytes = length;
    self->lent_count++;
    return true;
}
