#include "owned.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "graveyard.h"
#include "thread.h"

/* The set-up flags that a program may ask for. */
#define WANTED \
    (IORING_SETUP_R_DISABLED | IORING_SETUP_SQPOLL | IORING_SETUP_SQ_AFF | IORING_SETUP_ATTACH_WQ | IORING_SETUP_SQE128 | \
     IORING_SETUP_CQE32 | IORING_SETUP_CQE_MIXED)

/* On ENOMEM halves the slots, as ur_ring_open() does with the queues. */
static int open_slots(struct udpring_ring *self, uint32_t slots, struct udpring_reason *why)
{
    if (slots > UDPRING_SLOTS_MAX)
        return ur_fail(why, -EINVAL, "%u operation slots: at most %u", slots, UDPRING_SLOTS_MAX);
    for (;;) {
        int code = ur_ops_open(&self->ops, UR_KIND_PYTHON, slots);
        self->slots = code ? NULL : calloc(slots, sizeof(*self->slots));
        if (self->slots)
            return 0;
        ur_ops_close(&self->ops);
        if (slots <= UR_ENTRIES_LEAST)
            return ur_fail(why, -ENOMEM, "%u operation slots: no memory", slots);
        slots /= 2;
        self->ring.halvings++;
    }
}

int32_t udpring_ring_open(struct udpring_ring **out, const struct udpring_ring_options *options, struct udpring_reason *why)
{
    *out = NULL;
    if (options->flags_want & ~WANTED)
        return ur_fail(why, -EINVAL, "set-up flags 0x%x: not an option", options->flags_want & ~WANTED);
    struct udpring_ring *self = calloc(1, sizeof(*self));
    if (!self)
        return ur_fail(why, -ENOMEM, "no memory for a ring");
    struct ur_ring_options wanted = {
        .entries = options->entries,
        .cq_entries = options->cq_entries,
        .flags_deny = options->flags_deny,
        .visible_work = true,
        .disabled = options->flags_want & IORING_SETUP_R_DISABLED,
        .flags_want = options->flags_want & ~IORING_SETUP_R_DISABLED,
        .sq_thread_idle = options->sq_thread_idle,
        .sq_thread_cpu = options->sq_thread_cpu,
        .wq_fd = options->wq_fd,
        .workers = {options->workers[0], options->workers[1]},
    };
    int code = ur_ring_open(&self->ring, &wanted, why);
    if (code) {
        free(self);
        return code;
    }
    self->eventfd = -1;
    code = open_slots(self, options->slots ? options->slots : self->ring.cq_entries, why);
    if (code) {
        udpring_ring_close(self);
        udpring_ring_free(self);
        return code;
    }
    *out = self;
    return 0;
}

int32_t udpring_ring_enable(struct udpring_ring *self)
{
    return ur_ring_enable(&self->ring);
}

void ur_pin_release(struct udpring_ring *self, uint64_t pin)
{
    uint32_t last = self->released_count;
    if (last && self->released[last - 1].pin == pin) {
        self->released[last - 1].count++;
        return;
    }
    self->released[last].pin = pin;
    self->released[last].count = 1;
    self->released_count++;
}

int32_t udpring_ring_released(struct udpring_ring *self, uint64_t *pins, uint32_t *counts)
{
    uint32_t count = self->released_count;
    for (uint32_t i = 0; i < count; i++) {
        pins[i] = self->released[i].pin;
        counts[i] = self->released[i].count;
    }
    self->released_count = 0;
    return (int32_t)count;
}

int32_t udpring_ring_pinned(const struct udpring_ring *self, uint64_t pin)
{
    int32_t count = 0;
    for (uint32_t i = 0; self->slots && i < self->ops.count; i++)
        count += ur_ops_busy(&self->ops, i) && self->slots[i].pin == pin;
    return count;
}

void ur_slot_release(struct udpring_ring *self, uint32_t number)
{
    struct ur_slot *slot = &self->slots[number];
    if (slot->block) {
        ur_pool_give(&self->pool, slot->block, slot->block_bytes);
        slot->block = NULL;
        slot->block_bytes = 0;
    }
    slot->out = NULL;
    slot->pin = 0;
    ur_ops_give(&self->ops, number);
    self->busy--;
}

/* Leaks what operations that did not end may still access. */
static void bury(struct udpring_ring *self)
{
    for (uint32_t i = 0; i < self->group_count; i++)
        if (self->groups[i].memory && self->groups[i].kind != UDPRING_GROUP_VIEWS)   /* Python keeps the memory of views */
            ur_graveyard_leak(self->groups[i].memory, self->groups[i].mapped);
    for (uint32_t i = 0; self->slots && i < self->ops.count; i++)
        ur_graveyard_leak(self->slots[i].block, ur_pool_size(self->slots[i].block_bytes));
    ur_graveyard_leak(self->slots, self->ops.count * sizeof(*self->slots));
    self->buried = true;
}

/* Call after closing the ring. From here on only udpring_ring_free() works. Memory stays until then, because a signal handler
 * may close the ring while Python copies from it. */
static void retire(struct udpring_ring *self)
{
    if (self->eventfd >= 0)
        close(self->eventfd);
    self->eventfd = -1;
    for (uint32_t i = 0; i < self->group_count; i++)
        if (self->groups[i].memory)
            ur_bufring_close(&self->groups[i].ring, &self->ring);
    if (self->ring.undrained > 0)
        bury(self);
}

static void free_memory(struct udpring_ring *self)
{
    for (uint32_t i = 0; i < self->group_count; i++)
        free(self->groups[i].given);
    for (uint32_t i = 0; i < self->group_count && !self->buried; i++)
        if (self->groups[i].memory && self->groups[i].kind != UDPRING_GROUP_VIEWS)
            munmap(self->groups[i].memory, self->groups[i].mapped);
    for (uint32_t i = 0; self->slots && i < self->ops.count && !self->buried; i++)
        free(self->slots[i].block);
    if (!self->buried)
        free(self->slots);
    for (uint32_t i = 0; i < self->lent_count; i++)
        if (self->lent[i].bytes)
            ur_pool_give(&self->pool, self->lent[i].block, self->lent[i].bytes);
    ur_pool_close(&self->pool);
    ur_ops_close(&self->ops);
}

int32_t udpring_ring_close(struct udpring_ring *self)
{
    bool again = self->ring.state == UR_RING_CLOSED;
    /* A kernel that granted neither flag may be older than 5.19, and then cannot cancel all operations at once. */
    if (!ur_ring_usable(&self->ring) &&
        !(self->ring.setup_flags & (IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN)))
        (void)ur_ops_cancel_all(&self->ops, &self->ring);
    int left = ur_ring_close(&self->ring);
    if (left < 0 || again)
        return left;
    retire(self);
    return left;
}

int32_t udpring_ring_resize(struct udpring_ring *self, uint32_t entries, uint32_t cq_entries)
{
    int code = ur_ring_resize(&self->ring, entries, cq_entries);
    if (code == -ENOTRECOVERABLE)
        retire(self);
    self->chain_open = self->chain_open && ur_sq_queued(&self->ring);
    return code;
}

void udpring_ring_free(struct udpring_ring *self)
{
    if (!self)
        return;
    if (self->ring.state == UR_RING_CLOSED) {
        free_memory(self);
        free(self);
    } else if (self->ring.forks == ur_fork_count()) {   /* a forked child leaves the ring of its parent alone */
        ur_graveyard_leak(self, sizeof(*self));
    }
}

int32_t udpring_ring_info(struct udpring_ring *self, struct udpring_ring_info *out)
{
    const struct ur_ring *ring = &self->ring;
    bool open = ring->state == UR_RING_LIVE || ring->state == UR_RING_DISABLED;
    int code = ur_ring_usable(ring);
    if (open && code == -EXDEV)
        return code;
    *out = (struct udpring_ring_info){
        .sq_entries = ring->sq_entries,
        .cq_entries = ring->cq_entries,
        .slots = self->ops.count,
        .setup_flags = ring->setup_flags,
        .features = ring->features,
        .halvings = ring->halvings,
        .iowq_error = ring->iowq_error,
        .owner_tid = ring->owner_tid,
        .queued = ur_sq_queued(ring),
        .needs_wakeup = open && (ur_relaxed(ring->sq_kflags) & IORING_SQ_NEED_WAKEUP),
        .ready = ur_cq_ready(ring) - ur_cq_surplus(ring),
        .busy_slots = self->busy,
        .in_flight = ring->in_flight,
        .stale = self->ops.stale + self->unknown,
        .lost = ur_cq_lost(ring),
    };
    return 0;
}

uint64_t udpring_graveyard_bytes(void)
{
    return ur_graveyard_bytes();
}

uint64_t udpring_graveyard_blocks(void)
{
    return ur_graveyard_blocks();
}
