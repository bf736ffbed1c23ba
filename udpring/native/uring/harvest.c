/* Submission, waiting and completions of the owned ring. */
#include "owned.h"

int32_t udpring_ring_submit(struct udpring_ring *self)
{
    int code = ur_submit(&self->ring);
    self->chain_open = self->chain_open && ur_sq_queued(&self->ring);
    return code;
}

int32_t udpring_ring_wait(struct udpring_ring *self, uint32_t want, int64_t timeout_ns)
{
    int code = ur_submit_and_wait(&self->ring, want, timeout_ns);
    self->chain_open = self->chain_open && ur_sq_queued(&self->ring);
    return code;
}

static uint32_t at_most(size_t length, size_t room)
{
    return (uint32_t)(length < room ? length : room);
}

/* Lends a buffer that the kernel chose until settle, whatever the result of the operation. Returns its place in `lent`, counted
 * from 1, if the program may claim it. */
static uint32_t lend(struct udpring_ring *self, const struct ur_slot *slot, const struct io_uring_cqe *cqe)
{
    uint16_t id = (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT);
    if (!(cqe->flags & IORING_CQE_F_BUFFER) || !ur_slot_selects(slot) || id >= self->groups[slot->group].ring.count)
        return 0;
    self->lent[self->lent_count].group = slot->group;
    self->lent[self->lent_count].id = id;
    self->lent[self->lent_count].claimed = false;
    self->lent[self->lent_count].bytes = 0;
    self->lent_count++;
    return self->groups[slot->group].kind == UDPRING_GROUP_VIEWS ? self->lent_count : 0;
}

/* A message that a multishot receive put into a provided buffer: header, name, control data, payload. */
static void describe_message(const struct ur_slot *slot, struct udpring_completion *out)
{
    struct io_uring_recvmsg_out head;
    size_t name_room = slot->header.msg_namelen, control_room = slot->header.msg_controllen;
    size_t areas = sizeof(head) + name_room + control_room, length = out->length;
    const uint8_t *buffer = out->data;
    out->length = 0;
    if (!buffer || length < areas)
        return;
    memcpy(&head, buffer, sizeof(head));
    out->data = buffer + areas;
    out->length = at_most(head.payloadlen, length - areas);
    out->name = buffer + sizeof(head);
    out->name_length = at_most(head.namelen, name_room);
    out->control = buffer + sizeof(head) + name_room;
    out->control_length = at_most(head.controllen, control_room);
    out->message_flags = head.flags;
}

static const uint8_t *buffer_of(const struct udpring_ring *self, const struct ur_slot *slot, uint16_t id)
{
    const struct ur_group *group = &self->groups[slot->group];
    return id < group->ring.count ? group->memory + (size_t)id * group->bytes : NULL;
}

static void describe(const struct udpring_ring *self, const struct ur_slot *slot, const struct io_uring_cqe *cqe,
                     struct udpring_completion *out)
{
    if (cqe->flags & IORING_CQE_F_BUFFER && slot->memory != UR_MEMORY_GROUP_SEND) {
        out->data = buffer_of(self, slot, (uint16_t)(cqe->flags >> IORING_CQE_BUFFER_SHIFT));
        out->length = out->data && cqe->res > 0 ? at_most((size_t)cqe->res, self->groups[slot->group].bytes) : 0;
        if (slot->memory == UR_MEMORY_MESSAGE_GROUP)
            describe_message(slot, out);
        return;
    }
    out->expired = slot->memory == UR_MEMORY_TIME && cqe->res == -ETIME;
    if (cqe->res < 0 || cqe->flags & IORING_CQE_F_NOTIF)
        return;
    if (slot->out) {
        out->data = slot->out;
        out->length = slot->unit ? at_most((size_t)cqe->res * slot->unit, slot->room) : slot->room;
    }
    if (slot->memory == UR_MEMORY_ACCEPT) {
        out->name = (const uint8_t *)&slot->name;
        out->name_length = at_most(slot->name_length, sizeof(slot->name));
    } else if (slot->memory == UR_MEMORY_MESSAGE_IN) {
        out->name = (const uint8_t *)&slot->name;
        out->name_length = at_most(slot->header.msg_namelen, sizeof(slot->name));
        out->control = slot->block;
        out->control_length = at_most(slot->header.msg_controllen, slot->control_room);
        out->message_flags = (uint32_t)slot->header.msg_flags;
    }
}

/* Handles a completion of a slot's former operation, or of none (ur_ops_resolve() counts it). If it has a buffer, lends it, so
 * that settle returns it. Otherwise the group would run out of buffers. */
static void stale(struct udpring_ring *self, const struct io_uring_cqe *cqe)
{
    uint32_t slot = UR_SLOT(cqe->user_data);
    if (slot < self->ops.count && ur_slot_selects(&self->slots[slot]))
        lend(self, &self->slots[slot], cqe);
}

static void copy(const struct udpring_ring *self, const struct io_uring_cqe *cqe, struct udpring_completion *out)
{
    *out = (struct udpring_completion){.user_data = cqe->user_data, .result = cqe->res, .flags = cqe->flags};
    if (self->ring.cqe_shift || ur_cqe_wide(&self->ring, cqe))
        memcpy(out->extra, cqe + 1, sizeof(out->extra));
}

bool ur_completion_take(struct udpring_ring *self, const struct io_uring_cqe *cqe, struct udpring_completion *out)
{
    copy(self, cqe, out);
    switch (UR_KIND(cqe->user_data)) {
    case UR_KIND_SILENT:
    case UR_KIND_MESSAGE:
        return true;
    case UR_KIND_PYTHON:
        break;
    default:
        self->unknown += !ur_cqe_filler(&self->ring, cqe);
        return false;
    }
    int64_t slot = ur_ops_resolve(&self->ops, cqe->user_data);
    if (slot < 0) {
        stale(self, cqe);
        return false;
    }
    if (!ur_bundle_gather(self, &self->slots[slot], cqe, out)) {
        describe(self, &self->slots[slot], cqe, out);
        out->lent = lend(self, &self->slots[slot], cqe);
        if (out->lent)
            out->group = self->groups[self->slots[slot].group].ring.group;
    }
    if (!(cqe->flags & IORING_CQE_F_MORE)) {
        ur_ops_done(&self->ops, (uint32_t)slot);
        if (ur_unlikely(ur_slot_groups(&self->slots[slot])))
            ur_group_ended(self, &self->slots[slot], cqe->res);
        self->ended[self->ended_count++] = (uint32_t)slot;
        if (self->slots[slot].pin) {
            ur_pin_release(self, self->slots[slot].pin);
            self->slots[slot].pin = 0;
        }
    }
    return true;
}

int ur_settle(struct udpring_ring *self)
{
    int code = ur_ring_usable(&self->ring);
    if (code && code != -EBADFD)
        return code;
    for (uint32_t i = 0; i < self->lent_count; i++) {
        if (self->lent[i].bytes)
            ur_pool_give(&self->pool, self->lent[i].block, self->lent[i].bytes);
        else if (!self->lent[i].claimed)
            ur_group_recycle(&self->groups[self->lent[i].group], self->lent[i].id);
    }
    for (uint32_t i = 0; self->lent_count && i < self->group_count; i++)
        if (self->groups[i].ring.entries)
            ur_bufring_publish(&self->groups[i].ring);
    self->lent_count = 0;
    for (uint32_t i = 0; i < self->ended_count; i++)
        ur_slot_release(self, self->ended[i]);
    self->ended_count = 0;
    return 0;
}

int32_t udpring_ring_harvest(struct udpring_ring *self, struct udpring_completion *out, uint32_t max)
{
    int code = ur_settle(self);
    if (code)
        return code;
    if (max > UDPRING_HARVEST_MAX)
        max = UDPRING_HARVEST_MAX;
    if (max > UDPRING_HARVEST_MAX - self->released_count)
        max = UDPRING_HARVEST_MAX - self->released_count;
    uint32_t ready = ur_cq_ready(&self->ring), shown = 0, entries = 0;
    for (uint32_t taken = 0; taken < max && entries < ready; taken++) {
        const struct io_uring_cqe *cqe = ur_cq_at(&self->ring, entries);
        shown += ur_completion_take(self, cqe, &out[shown]);
        entries += 1 + ur_cqe_wide(&self->ring, cqe);
    }
    ur_cq_advance(&self->ring, entries);
    return (int32_t)shown;
}

int32_t udpring_ring_peek(struct udpring_ring *self, struct udpring_completion *out, uint32_t max)
{
    int code = ur_ring_usable(&self->ring);
    if (code)
        return code;
    uint32_t ready = ur_cq_ready(&self->ring), shown = 0;
    for (uint32_t i = 0; i < ready && shown < max; i++) {
        const struct io_uring_cqe *cqe = ur_cq_at(&self->ring, i);
        unsigned kind = UR_KIND(cqe->user_data);
        int64_t slot = ur_ops_find(&self->ops, cqe->user_data);
        i += ur_cqe_wide(&self->ring, cqe);
        if (slot < 0 && kind != UR_KIND_SILENT && kind != UR_KIND_MESSAGE)
            continue;   /* a filler, or harvest counts it */
        copy(self, cqe, &out[shown]);
        if (slot >= 0)
            describe(self, &self->slots[slot], cqe, &out[shown]);
        shown++;
    }
    return (int32_t)shown;
}

int32_t udpring_ring_holds(const struct udpring_ring *self, uint64_t user_data)
{
    return ur_ops_find(&self->ops, user_data) >= 0;
}

void udpring_ring_claim(struct udpring_ring *self, uint32_t lent)
{
    if (lent && lent <= self->lent_count)
        self->lent[lent - 1].claimed = true;
}
