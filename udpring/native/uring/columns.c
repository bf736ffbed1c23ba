/* Completions as columns of numbers. */
#include "owned.h"

void udpring_completions_split(const struct udpring_completion *completions, uint32_t count, uint64_t *tickets, int32_t *results,
                               uint32_t *flags, uint8_t *shapes)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct udpring_completion *one = &completions[i];
        bool full = one->name || one->control_length || one->message_flags || one->expired ||
                    UR_KIND(one->user_data) == UR_KIND_MESSAGE;
        tickets[i] = one->user_data;
        results[i] = one->result;
        flags[i] = one->flags;
        shapes[i] = full ? UDPRING_SHAPE_FULL : one->lent ? UDPRING_SHAPE_VIEW : one->length ? UDPRING_SHAPE_DATA : UDPRING_SHAPE_PLAIN;
    }
}

/* Handles one completion for a caller that wants its numbers alone. Its operation's slot and memory are free at once. True: the
 * caller gets it. */
static bool take_numbers(struct udpring_ring *self, const struct io_uring_cqe *cqe)
{
    int64_t slot = ur_ops_find(&self->ops, cqe->user_data);
    if (ur_unlikely(slot < 0 || ur_slot_groups(&self->slots[slot]))) {
        struct udpring_completion shown;
        return ur_completion_take(self, cqe, &shown);   /* settle returns its buffer */
    }
    if (!(cqe->flags & IORING_CQE_F_MORE)) {
        ur_ops_done(&self->ops, (uint32_t)slot);
        if (self->slots[slot].pin)
            ur_pin_release(self, self->slots[slot].pin);
        ur_slot_release(self, (uint32_t)slot);
    }
    return true;
}

int32_t udpring_ring_harvest_columns(struct udpring_ring *self, const struct udpring_results *out)
{
    uint32_t done = 0, max = out->room;
    for (;;) {
        int code = ur_settle(self);
        if (code)
            return code;
        uint32_t ready = ur_cq_ready(&self->ring), room = UDPRING_HARVEST_MAX - self->released_count, entries = 0;
        room = room < max - done ? room : max - done;
        if (!ready || !room)
            return (int32_t)done;
        for (uint32_t i = 0; i < room && entries < ready; i++) {
            const struct io_uring_cqe *cqe = ur_cq_at(&self->ring, entries);
            entries += 1 + ur_cqe_wide(&self->ring, cqe);
            if (!take_numbers(self, cqe))
                continue;
            out->tickets[done] = cqe->user_data;
            out->results[done] = cqe->res;
            out->flags[done] = cqe->flags;
            done++;
        }
        ur_cq_advance(&self->ring, entries);
    }
}

int32_t udpring_ring_turn(struct udpring_ring *self, uint32_t want, int64_t timeout_ns, const struct udpring_results *out)
{
    int code = udpring_ring_wait(self, want, timeout_ns);
    bool present = code == -ETIME || ((code == -EAGAIN || code == -EBUSY) && ur_cq_ready(&self->ring));
    if (code && !present)
        return code;
    code = udpring_ring_attend(self);
    if (code)
        return code;
    int32_t count = udpring_ring_harvest_columns(self, out);
    if (self->eventfd >= 0 && ur_cq_ready(&self->ring))
        udpring_ring_rouse(self);
    return count;
}
