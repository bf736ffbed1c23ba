/* Many operations of one kind in one call, from columns. */
#include "owned.h"

/* Where the memory of operation i begins, and how long it is. -ERANGE: not within the memory. */
static int piece(struct udpring_ring *self, const struct udpring_columns *columns, uint32_t i, struct ur_request *request)
{
    uint64_t length = request->len;
    uint64_t start = columns->starts ? columns->starts[i] : (uint64_t)columns->length * i;
    if (start > columns->size || length > columns->size - start)
        return ur_fail(&self->why, -ERANGE, "operation %u: %llu bytes at %llu of memory of %llu", i, (unsigned long long)length,
                       (unsigned long long)start, (unsigned long long)columns->size);
    request->memory = columns->memory + start;
    request->size = length;
    request->len = 0;
    return 0;
}

int32_t udpring_ring_put_many(struct udpring_ring *self, uint32_t operation, uint32_t flags, uint64_t extra,
                              const struct udpring_columns *columns, uint64_t pin, uint64_t *tickets)
{
    int code = ur_ring_usable(&self->ring);
    if (code && code != -EBADFD)
        return code;
    self->why.text[0] = 0;
    const struct ur_row *row = ur_row(operation);
    bool memory = row && (row->memory == UR_MEMORY_IN || row->memory == UR_MEMORY_OUT);
    bool numbers = row && (row->memory <= UR_MEMORY_SEND_FD || row->memory == UR_MEMORY_SHOTS || row->memory == UR_MEMORY_GROUP ||
                           row->memory == UR_MEMORY_FIXED || row->memory == UR_MEMORY_TIME || row->memory == UR_MEMORY_TIME_UPDATE);
    if (!numbers && !(memory && pin))
        return ur_fail(&self->why, -EINVAL, "%s cannot be queued in columns", row ? row->name : "this operation");
    for (uint32_t i = 0; i < columns->count; i++) {
        struct ur_request request = {
            .row = row, .flags = flags,
            .fd = columns->files ? columns->files[i] : columns->file,
            .off = columns->offs ? columns->offs[i] : columns->off,
            .addr = numbers && columns->starts ? columns->starts[i] : columns->addr,
            .len = columns->lengths ? columns->lengths[i] : columns->length,
            .op_flags = columns->op_flags,
            .prio = (uint16_t)extra, .buffer = (uint16_t)(extra >> 16), .index = (uint32_t)(extra >> 32), .pin = pin,
        };
        int64_t ticket = memory ? piece(self, columns, i, &request) : 0;
        if (!ticket)
            ticket = ur_request_put(self, &request);
        if (ticket < 0)
            return i ? (int32_t)i : (int32_t)ticket;
        tickets[i] = (uint64_t)ticket;
    }
    return (int32_t)columns->count;
}

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

int32_t udpring_ring_harvest_columns(struct udpring_ring *self, uint64_t *tickets, int32_t *results, uint32_t *flags, uint32_t max)
{
    struct udpring_completion shown[64];
    uint32_t done = 0;
    while (done < max) {
        uint32_t wanted = max - done < UR_ARRAY_LENGTH(shown) ? max - done : (uint32_t)UR_ARRAY_LENGTH(shown);
        int32_t count = udpring_ring_harvest(self, shown, wanted);
        if (count <= 0) {
            if (count < 0 && !done)
                return count;
            break;
        }
        for (int32_t i = 0; i < count; i++, done++) {
            tickets[done] = shown[i].user_data;
            results[done] = shown[i].result;
            flags[done] = shown[i].flags;
        }
    }
    return (int32_t)done;
}
