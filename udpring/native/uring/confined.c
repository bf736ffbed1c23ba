#include "confined.h"

#include <stdlib.h>

#include "maps.h"
#include "sys.h"

/* Buffer groups that a user of a kept ring may have left registered (rx_multishot.c: one a socket). */
#define GROUPS 4u

/* Owner and only user: its thread. Freed by ur_unconfine_thread(). */
struct kept {
    uint32_t count;
    struct ur_ring ring[UR_KEPT_MAX];
};
static _Thread_local struct kept *kept;

#define OPERATION(op) {.opcode = IORING_RESTRICTION_SQE_OP, .allowed = (op)}
#define REGISTRATION(op) {.opcode = IORING_RESTRICTION_REGISTER_OP, .allowed = (op)}
/* The kernels that know a rule come in this order, so an older kernel takes the first ones. */
#define RULES_LEAST 8u
static const struct io_uring_restriction rules[] = {
    OPERATION(IORING_OP_RECVMSG), OPERATION(IORING_OP_SENDMSG), OPERATION(IORING_OP_POLL_ADD), OPERATION(IORING_OP_TIMEOUT),
    OPERATION(IORING_OP_ASYNC_CANCEL), REGISTRATION(IORING_REGISTER_ENABLE_RINGS),
    {.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED, .allowed = IOSQE_BUFFER_SELECT},
    {.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .allowed = 0},
    REGISTRATION(IORING_REGISTER_IOWQ_MAX_WORKERS),   /* 5.15 */
    REGISTRATION(IORING_REGISTER_PBUF_RING), REGISTRATION(IORING_UNREGISTER_PBUF_RING),   /* 5.19 */
    REGISTRATION(IORING_REGISTER_SYNC_CANCEL),   /* 6.0 */
    OPERATION(IORING_OP_SENDMSG_ZC),   /* 6.1 */
};

int ur_confine_thread(void)
{
    if (!kept)
        kept = calloc(1, sizeof(*kept));
    return kept ? 0 : -ENOMEM;
}

static void drop(struct ur_ring *ring)
{
    ur_unmap_queues(ring);
    close(ring->fd);
}

void ur_unconfine_thread(void)
{
    for (uint32_t i = 0; kept && i < kept->count; i++)
        drop(&kept->ring[i]);
    free(kept);
    kept = NULL;
}

bool ur_thread_confined(void)
{
    return kept != NULL;
}

static bool suits(const struct ur_ring *ring, const struct ur_ring_options *options)
{
    return ring->asked_entries == options->entries && ring->asked_cq_entries == options->cq_entries &&
           ring->asked_visible_work == options->visible_work && !options->flags_want && !options->flags_deny &&
           !options->disabled;
}

bool ur_kept_take(struct ur_ring *ring, const struct ur_ring_options *options)
{
    for (uint32_t i = 0; kept && i < kept->count; i++) {
        if (!suits(&kept->ring[i], options))
            continue;
        *ring = kept->ring[i];
        kept->ring[i] = kept->ring[--kept->count];
        return true;
    }
    return false;
}

bool ur_kept_put(struct ur_ring *ring)
{
    if (!kept || !ring->restricted || ring->state != UR_RING_LIVE || ring->in_flight != 0 || ur_sq_queued(ring) || ur_cq_lost(ring))
        return false;
    ur_cq_advance(ring, ur_cq_ready(ring));
    for (uint16_t group = 0; group < GROUPS; group++) {
        struct io_uring_buf_reg request = {.bgid = group};
        (void)ur_sys_register(ring->fd, IORING_UNREGISTER_PBUF_RING, &request, 1);
    }
    if (kept->count == UR_KEPT_MAX) {
        drop(&kept->ring[0]);
        memmove(&kept->ring[0], &kept->ring[1], (UR_KEPT_MAX - 1) * sizeof(kept->ring[0]));
        kept->count--;
    }
    kept->ring[kept->count++] = *ring;
    return true;
}

int ur_restrict(struct ur_ring *ring)
{
    int code = -EINVAL;
    for (unsigned count = UR_ARRAY_LENGTH(rules); code == -EINVAL && count >= RULES_LEAST; count--)
        code = ur_sys_register(ring->fd, IORING_REGISTER_RESTRICTIONS, rules, count);
    ring->restricted = code >= 0;
    return code < 0 ? code : 0;
}
