/* Many operations of one kind in one call, from columns. */
#include "owned.h"

/* Where the memory of operation i begins, and how long it is. -ERANGE: not within the memory. */
static int piece(struct udpring_ring *self, const struct udpring_columns *columns, uint32_t i, struct ur_request *request)
{
    uint64_t length = columns->lengths ? columns->lengths[i] : columns->length;
    uint64_t start = columns->starts ? columns->starts[i] : (uint64_t)columns->length * i;
    if (start > columns->size || length > columns->size - start)
        return ur_fail(&self->why, -ERANGE, "operation %u: %llu bytes at %llu of memory of %llu", i, (unsigned long long)length,
                       (unsigned long long)start, (unsigned long long)columns->size);
    request->memory = columns->memory + start;
    request->size = length;
    return 0;
}

/* Operation i of the columns. `request` has what all have in common. */
static int vary(struct udpring_ring *self, const struct udpring_columns *columns, uint32_t i, bool memory, struct ur_request *request)
{
    if (columns->offs)
        request->off = columns->offs[i];
    if (memory)
        return piece(self, columns, i, request);
    if (columns->starts)
        request->addr = columns->starts[i];
    if (columns->lengths)
        request->len = columns->lengths[i];
    return 0;
}

int32_t udpring_ring_put_many(struct udpring_ring *self, const struct udpring_columns *columns, uint64_t pin)
{
    int code = ur_ring_usable(&self->ring);
    if (code && code != -EBADFD)
        return code;
    self->why.text[0] = 0;
    const struct ur_row *row = ur_row(columns->operation);
    bool memory = row && (row->memory == UR_MEMORY_IN || row->memory == UR_MEMORY_OUT);
    bool numbers = row && (row->memory <= UR_MEMORY_SEND_FD || row->memory == UR_MEMORY_SHOTS || row->memory == UR_MEMORY_GROUP ||
                           row->memory == UR_MEMORY_FIXED || row->memory == UR_MEMORY_TIME || row->memory == UR_MEMORY_TIME_UPDATE);
    if (!numbers && !(memory && pin))
        return ur_fail(&self->why, -EINVAL, "%s cannot be queued in columns", row ? row->name : "this operation");
    struct ur_request request = {
        .row = row, .flags = columns->flags, .fd = columns->file, .off = columns->off, .addr = columns->addr,
        .len = memory ? 0 : columns->length, .op_flags = columns->op_flags,
        .prio = (uint16_t)columns->extra, .buffer = (uint16_t)(columns->extra >> 16),
        .index = (uint32_t)(columns->extra >> 32), .pin = pin,
    };
    /* Operations that differ in nothing that is checked are checked once. */
    bool varied = memory || columns->offs || columns->starts || columns->lengths;
    for (uint32_t i = 0; i < columns->count; i++) {
        if (columns->files)
            request.fd = columns->files[i];
        int64_t ticket = varied ? vary(self, columns, i, memory, &request) : 0;
        if (!ticket && (varied || !i))
            ticket = ur_request_check(self, &request);
        if (!ticket)
            ticket = ur_request_queue(self, &request);
        if (ur_unlikely(ticket < 0))
            return i ? (int32_t)i : (int32_t)ticket;
        columns->tickets[i] = (uint64_t)ticket;
    }
    return (int32_t)columns->count;
}
