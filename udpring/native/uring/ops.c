#include "ops.h"

#include <stdlib.h>

#include "queue.h"

int ur_ops_open(struct ur_ops *ops, enum ur_kind kind, uint32_t count)
{
    memset(ops, 0, sizeof(*ops));
    if (kind == UR_KIND_NONE || !count || count == UR_NO_SLOT)
        return -EINVAL;
    ops->kind = (uint8_t)kind;
    ops->generation = calloc(count, sizeof(*ops->generation));
    ops->next_free = calloc(count, sizeof(*ops->next_free));
    ops->state = calloc(count, sizeof(*ops->state));
    if (!ops->generation || !ops->next_free || !ops->state) {
        ur_ops_close(ops);
        return -ENOMEM;
    }
    ops->count = count;
    for (uint32_t slot = 0; slot < count; slot++)
        ops->next_free[slot] = slot + 1 < count ? slot + 1 : UR_NO_SLOT;
    return 0;
}

static bool resize(void *memory, size_t bytes)
{
    void **at = memory, *larger = realloc(*at, bytes);
    if (larger)
        *at = larger;
    return larger;
}

int ur_ops_grow(struct ur_ops *ops, uint32_t count)
{
    if (count <= ops->count)
        return 0;
    if (count == UR_NO_SLOT)
        return -EINVAL;
    if (!resize(&ops->generation, count * sizeof(*ops->generation)) ||
        !resize(&ops->next_free, count * sizeof(*ops->next_free)) || !resize(&ops->state, count * sizeof(*ops->state)))
        return -ENOMEM;
    for (uint32_t slot = count; slot-- > ops->count;) {
        ops->generation[slot] = 0;
        ops->state[slot] = UR_SLOT_FREE;
        ops->next_free[slot] = ops->free_head;
        ops->free_head = slot;
    }
    ops->count = count;
    return 0;
}

void ur_ops_close(struct ur_ops *ops)
{
    free(ops->generation);
    free(ops->next_free);
    free(ops->state);
    memset(ops, 0, sizeof(*ops));
    ops->free_head = UR_NO_SLOT;
}

bool ur_ops_busy(const struct ur_ops *ops, uint32_t slot)
{
    return ops->state[slot] != UR_SLOT_FREE;
}

int ur_ops_cancel_all(struct ur_ops *ops, struct ur_ring *ring)
{
    int queued = 0;
    ur_sqe_retract(ring, ring->sq_entries);
    for (uint32_t slot = 0; slot < ops->count; slot++) {
        if (ops->state[slot] != UR_SLOT_IN_FLIGHT)
            continue;
        struct io_uring_sqe *sqe = ur_sqe_or_submit(ring);
        if (!sqe)
            return -EAGAIN;
        sqe->opcode = IORING_OP_ASYNC_CANCEL;
        sqe->fd = -1;
        sqe->addr = UR_USER_DATA(ops->kind, ops->generation[slot], slot);
        sqe->user_data = UR_USER_DATA(UR_KIND_CANCEL, ops->generation[slot], slot);
        queued++;
    }
    int code = ur_submit(ring);
    return code < 0 ? code : queued;
}
