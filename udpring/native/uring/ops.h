/* Operation slots: they track which operation owns memory that the kernel may access (R5).
 * user_data = kind:8 | generation:24 | slot:32. A slot is busy from arm to its terminal completion. */
#ifndef UDPRING_URING_OPS_H
#define UDPRING_URING_OPS_H
#include "../base.h"

#define UR_USER_DATA(kind, generation, slot) \
    ((uint64_t)(kind) << 56 | (uint64_t)((generation) & 0xffffffu) << 32 | (uint32_t)(slot))
#define UR_KIND(user_data) ((unsigned)((user_data) >> 56))
#define UR_GENERATION(user_data) ((uint32_t)((user_data) >> 32) & 0xffffffu)
#define UR_SLOT(user_data) ((uint32_t)(user_data))

/* Kinds of operation, so that several users may share one ring. 0 is never used. */
enum ur_kind {
    UR_KIND_NONE = 0,
    UR_KIND_CANCEL = 1,
    UR_KIND_PYTHON = 2,     /* udpring/uring: the general ring for Python */
    UR_KIND_RECV = 3,       /* udp receive pool and multishot */
    UR_KIND_SEND = 4,       /* udp send */
    UR_KIND_WATCH = 5,      /* poll of another descriptor on the receive ring */
    UR_KIND_SILENT = 6,     /* no completion on success (IOSQE_CQE_SKIP_SUCCESS): must own no memory */
    UR_KIND_MESSAGE = 7,    /* sent by another ring (MSG_RING), or a resource tag: no operation of this ring */
    UR_KIND_NET_RECV = 8,   /* uring/net: of a connection */
    UR_KIND_NET_SEND = 9,
    UR_KIND_NET_ACCEPT = 10,
    UR_KIND_NET_WAKE = 11,
    UR_KIND_NET_PAUSE = 12, /* the end of a pause of accepting */
};

#define UR_NO_SLOT UINT32_MAX

enum ur_slot_state { UR_SLOT_FREE, UR_SLOT_TAKEN, UR_SLOT_IN_FLIGHT };

/* Owner: the user of a ring. Thread: that ring's owner. Freed by ur_ops_close(). */
struct ur_ops {
    uint8_t kind;
    uint32_t count, free_head, in_flight;
    uint64_t stale;          /* completions of an old generation: counted and ignored */
    uint32_t *generation;    /* [count] */
    uint32_t *next_free;     /* [count] */
    uint8_t *state;          /* [count] enum ur_slot_state */
};

int ur_ops_open(struct ur_ops *ops, enum ur_kind kind, uint32_t count) UR_MUST_CHECK;
/* More slots, which are free. -ENOMEM: nothing has changed. */
int ur_ops_grow(struct ur_ops *ops, uint32_t count) UR_MUST_CHECK;
void ur_ops_close(struct ur_ops *ops);
bool ur_ops_busy(const struct ur_ops *ops, uint32_t slot);   /* taken or in flight */

/* A free slot, or -ENOBUFS. */
static inline int64_t ur_ops_take(struct ur_ops *ops)
{
    uint32_t slot = ops->free_head;
    if (!ops->count || slot == UR_NO_SLOT)
        return -ENOBUFS;
    ops->free_head = ops->next_free[slot];
    ops->state[slot] = UR_SLOT_TAKEN;
    return slot;
}

/* Marks a taken slot as in flight and returns the user_data for its SQE. */
static inline uint64_t ur_ops_arm(struct ur_ops *ops, uint32_t slot)
{
    ops->state[slot] = UR_SLOT_IN_FLIGHT;
    ops->in_flight++;
    return UR_USER_DATA(ops->kind, ops->generation[slot], slot);
}

/* The user_data of a slot's operation in flight, for a cancel. */
static inline uint64_t ur_ops_in_flight(const struct ur_ops *ops, uint32_t slot)
{
    return UR_USER_DATA(ops->kind, ops->generation[slot], slot);
}

/* The slot a completion belongs to, or -ESTALE for an old generation or a slot not in flight. */
static inline int64_t ur_ops_find(const struct ur_ops *ops, uint64_t user_data)
{
    uint32_t slot = UR_SLOT(user_data);
    if (ur_likely(UR_KIND(user_data) == ops->kind && slot < ops->count && ops->state[slot] == UR_SLOT_IN_FLIGHT &&
                  UR_GENERATION(user_data) == (ops->generation[slot] & 0xffffffu)))
        return slot;
    return -ESTALE;
}

/* The same. Counts the stale ones. */
static inline int64_t ur_ops_resolve(struct ur_ops *ops, uint64_t user_data)
{
    int64_t slot = ur_ops_find(ops, user_data);
    ops->stale += slot < 0;
    return slot;
}

/* Call at the terminal completion. The slot is taken again (may be re-armed), with a new generation. */
static inline void ur_ops_done(struct ur_ops *ops, uint32_t slot)
{
    ops->generation[slot]++;
    ops->state[slot] = UR_SLOT_TAKEN;
    ops->in_flight--;
}

/* Returns a taken slot to the free list. Call done and give exactly once each, or two users could take the same slot. */
static inline void ur_ops_give(struct ur_ops *ops, uint32_t slot)
{
    ops->state[slot] = UR_SLOT_FREE;
    ops->next_free[slot] = ops->free_head;
    ops->free_head = slot;
}

/* Call before ur_ring_close() on kernels before 5.19, which cannot cancel all operations at once. Retracts the queued entries,
 * then submits an ASYNC_CANCEL by user_data for each slot in flight (their completions are of UR_KIND_CANCEL). Returns how
 * many, -EAGAIN if the kernel took no more, or the -errno of ur_submit(). */
struct ur_ring;
int ur_ops_cancel_all(struct ur_ops *ops, struct ur_ring *ring);
#endif
