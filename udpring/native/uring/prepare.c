/* Queues an operation of the owned ring.
 *   1. Check the arguments before taking anything.
 *   2. Take a slot and allocate its memory. Copy payload, name, control data and times, and reserve room for results.
 *   3. Take an SQE last and fill all of it. So a failed preparation leaves nothing queued. */
#include <stdlib.h>

#include "owned.h"

#define LINKS (IOSQE_IO_LINK | IOSQE_IO_HARDLINK)

static bool owns_memory(uint32_t opcode)
{
    switch (opcode) {
    case IORING_OP_NOP:
    case IORING_OP_POLL_ADD:
    case IORING_OP_POLL_REMOVE:
    case IORING_OP_TIMEOUT_REMOVE:
    case IORING_OP_ASYNC_CANCEL:
    case IORING_OP_MSG_RING:
        return false;
    default:
        return true;
    }
}

static const struct ur_group *group_of(const struct udpring_ring *self, uint32_t id)
{
    for (uint32_t i = 0; i < self->group_count; i++)
        if (self->groups[i].ring.group == id)
            return &self->groups[i];
    return NULL;
}

static int check_fixed(const struct udpring_ring *self, const struct udpring_operation *operation, struct udpring_reason *why)
{
    if (operation->group >= self->fixed_count)
        return ur_fail(why, -ERANGE, "registered buffer %u: there are %u", operation->group, self->fixed_count);
    size_t room = self->fixed[operation->group].iov_len;
    if (operation->target > room || operation->length > room - operation->target)
        return ur_fail(why, -ERANGE, "%u bytes at %llu of registered buffer %u, which has %zu", operation->length,
                       (unsigned long long)operation->target, operation->group, room);
    return 0;
}

static int check(const struct udpring_ring *self, const struct udpring_operation *operation, struct udpring_reason *why)
{
    if (operation->flags & ~(0x7fu & ~IOSQE_BUFFER_SELECT))
        return ur_fail(why, -EINVAL, "flags 0x%x: unknown, or BUFFER_SELECT, which the operation sets itself", operation->flags);
    if ((operation->flags & IOSQE_CQE_SKIP_SUCCESS) && owns_memory(operation->opcode))
        return ur_fail(why, -EINVAL, "SKIP_SUCCESS on an operation that owns memory: only its completion says when to free it");
    if (operation->length > UDPRING_OPERATION_BYTES_MAX && operation->opcode != IORING_OP_NOP &&
        operation->opcode != IORING_OP_MSG_RING)
        return ur_fail(why, -ERANGE, "length %u: at most %u", operation->length, UDPRING_OPERATION_BYTES_MAX);
    if (operation->payload_length > UDPRING_OPERATION_BYTES_MAX)
        return ur_fail(why, -ERANGE, "payload of %u bytes: at most %u", operation->payload_length, UDPRING_OPERATION_BYTES_MAX);
    if (operation->name_length > sizeof(struct sockaddr_storage))
        return ur_fail(why, -ERANGE, "an address of %u bytes: at most %zu", operation->name_length,
                       sizeof(struct sockaddr_storage));
    if (operation->control_length > UDPRING_CONTROL_BYTES_MAX || operation->control_room > UDPRING_CONTROL_BYTES_MAX)
        return ur_fail(why, -ERANGE, "control messages: at most %u bytes", UDPRING_CONTROL_BYTES_MAX);
    switch (operation->opcode) {
    case IORING_OP_NOP:
    case IORING_OP_POLL_ADD:
    case IORING_OP_POLL_REMOVE:
    case IORING_OP_TIMEOUT_REMOVE:
    case IORING_OP_ASYNC_CANCEL:
    case IORING_OP_WRITE:
    case IORING_OP_READ:
    case IORING_OP_SENDMSG:
    case IORING_OP_RECVMSG:
        return 0;
    case IORING_OP_TIMEOUT:
    case IORING_OP_LINK_TIMEOUT:
        return operation->target > INT64_MAX ? ur_fail(why, -ERANGE, "a time-out above 2^63 ns") : 0;
    case IORING_OP_MSG_RING:
        return operation->target >> 56 ? ur_fail(why, -ERANGE, "a message has 56 bits") : 0;
    case IORING_OP_READ_MULTISHOT:
        return group_of(self, operation->group) ? 0 : ur_fail(why, -ENOENT, "buffer group %u was never provided",
                                                             operation->group);
    case IORING_OP_READ_FIXED:
    case IORING_OP_WRITE_FIXED:
        return check_fixed(self, operation, why);
    default:
        return ur_fail(why, -EOPNOTSUPP, "operation %u is not supported", operation->opcode);
    }
}

/* Allocates the memory of an operation: one block, control data first (aligned), then the payload. Besides the
 * slot, the operation owns no other memory. */
static int equip(struct udpring_ring *self, struct ur_slot *slot, const struct udpring_operation *operation)
{
    bool message = operation->opcode == IORING_OP_SENDMSG || operation->opcode == IORING_OP_RECVMSG;
    bool in = operation->opcode == IORING_OP_READ || operation->opcode == IORING_OP_RECVMSG;
    bool out = operation->opcode == IORING_OP_WRITE || operation->opcode == IORING_OP_SENDMSG;
    uint32_t control = operation->opcode == IORING_OP_RECVMSG ? operation->control_room
                       : operation->opcode == IORING_OP_SENDMSG ? operation->control_length : 0;
    size_t control_bytes = ((size_t)control + 15) & ~(size_t)15;
    size_t payload = in ? operation->length : out ? operation->payload_length : 0;
    if (in || out) {
        slot->block_bytes = control_bytes + payload;
        slot->block = calloc(1, slot->block_bytes ? slot->block_bytes : 1);
        if (!slot->block)
            return -ENOMEM;
        slot->payload = slot->block + control_bytes;
    }
    if (out && payload)
        memcpy(slot->payload, operation->payload, payload);
    if (message) {
        slot->vector = (struct iovec){.iov_base = slot->payload, .iov_len = payload};
        slot->header = (struct msghdr){.msg_iov = &slot->vector, .msg_iovlen = 1};
        slot->header.msg_control = control ? slot->block : NULL;
        slot->header.msg_controllen = control;
        slot->control_room = control;
    }
    if (operation->opcode == IORING_OP_SENDMSG) {
        if (operation->control_length)
            memcpy(slot->block, operation->control, operation->control_length);
        if (operation->name_length) {
            memcpy(&slot->name, operation->name, operation->name_length);
            slot->header.msg_name = &slot->name;
            slot->header.msg_namelen = operation->name_length;
        }
    } else if (operation->opcode == IORING_OP_RECVMSG) {
        slot->header.msg_name = &slot->name;
        slot->header.msg_namelen = sizeof(slot->name);
    } else if (operation->opcode == IORING_OP_READ_FIXED || operation->opcode == IORING_OP_WRITE_FIXED) {
        slot->payload = (uint8_t *)self->fixed[operation->group].iov_base + operation->target;
    }
    slot->time.tv_sec = (int64_t)(operation->target / 1000000000u);
    slot->time.tv_nsec = (long long)(operation->target % 1000000000u);
    slot->opcode = (uint8_t)operation->opcode;
    if (operation->opcode == IORING_OP_READ_MULTISHOT)
        slot->group = (uint8_t)(group_of(self, operation->group) - self->groups);
    return 0;
}

static uint32_t poll_mask(uint32_t events)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return events << 16 | events >> 16;
#else
    return events;
#endif
}

static uint64_t address(const void *memory)
{
    return (uint64_t)(uintptr_t)memory;
}

/* Fills a zeroed SQE, except user_data. */
static void fill(struct io_uring_sqe *sqe, const struct ur_slot *slot, const struct udpring_operation *operation)
{
    sqe->opcode = (uint8_t)operation->opcode;
    sqe->flags = (uint8_t)operation->flags;
    sqe->fd = operation->fd;
    sqe->op_flags = operation->op_flags;
    sqe->off = operation->offset;
    switch (operation->opcode) {
    case IORING_OP_NOP:
        sqe->len = operation->length;
        sqe->off = 0;
        break;
    case IORING_OP_POLL_ADD:
        sqe->poll32_events = poll_mask(operation->op_flags);
        sqe->len = operation->offset ? IORING_POLL_ADD_MULTI : 0;
        sqe->off = 0;
        break;
    case IORING_OP_POLL_REMOVE:
    case IORING_OP_TIMEOUT_REMOVE:
    case IORING_OP_ASYNC_CANCEL:
        sqe->addr = operation->target;
        sqe->off = 0;
        break;
    case IORING_OP_TIMEOUT:
    case IORING_OP_LINK_TIMEOUT:
        sqe->addr = address(&slot->time);
        sqe->len = 1;
        break;
    case IORING_OP_MSG_RING:
        sqe->addr = IORING_MSG_DATA;
        sqe->off = (uint64_t)UR_KIND_MESSAGE << 56 | operation->target;
        sqe->len = operation->length;
        break;
    case IORING_OP_SENDMSG:
    case IORING_OP_RECVMSG:
        sqe->addr = address(&slot->header);
        sqe->len = 1;
        sqe->off = 0;
        break;
    case IORING_OP_READ_MULTISHOT:
        sqe->flags |= IOSQE_BUFFER_SELECT;
        sqe->buf_group = (uint16_t)operation->group;
        break;
    case IORING_OP_READ_FIXED:
    case IORING_OP_WRITE_FIXED:
        sqe->buf_index = (uint16_t)operation->group;
        sqe->addr = address(slot->payload);
        sqe->len = operation->length;
        break;
    default:   /* READ, WRITE */
        sqe->addr = address(slot->payload);
        sqe->len = operation->opcode == IORING_OP_WRITE ? operation->payload_length : operation->length;
        break;
    }
}

/* Takes an SQE. Submits if necessary to make room, but not between the links of a chain, because that would cut it. */
static int next_sqe(struct udpring_ring *self, struct io_uring_sqe **sqe, struct udpring_reason *why)
{
    *sqe = ur_sqe(&self->ring);
    if (*sqe)
        return 0;
    if (self->chain_open)
        return ur_fail(why, -E2BIG, "a chain of linked operations does not fit into the %u entries of the submission queue "
                       "that are left: reserve room first", self->ring.sq_entries);
    *sqe = ur_sqe_or_submit(&self->ring);
    return *sqe ? 0 : ur_fail(why, -EAGAIN, "the kernel takes no submissions for lack of memory. Reap completions and try again");
}

int64_t udpring_ring_queue(struct udpring_ring *self, const struct udpring_operation *operation, struct udpring_reason *why)
{
    int code = ur_ring_usable(&self->ring);
    if (code && code != -EBADFD)   /* a ring that is not enabled yet may be filled up to its size */
        return code;
    code = check(self, operation, why);
    if (code)
        return code;

    struct io_uring_sqe *sqe;
    if (operation->flags & IOSQE_CQE_SKIP_SUCCESS) {
        code = next_sqe(self, &sqe, why);
        if (code)
            return code;
        fill(sqe, NULL, operation);
        sqe->user_data = (uint64_t)UR_KIND_SILENT << 56 | (++self->silent & 0xffffffffffffffull);
    } else {
        int64_t taken = ur_ops_take(&self->ops);
        if (taken < 0)
            return ur_fail(why, (int)taken, "all %u operation slots are busy: reap completions first", self->ops.count);
        uint32_t slot = (uint32_t)taken;
        self->busy++;
        code = equip(self, &self->slots[slot], operation);
        if (!code)
            code = next_sqe(self, &sqe, why);
        else
            ur_fail(why, code, "%u bytes: no memory", operation->length + operation->payload_length);
        if (code) {
            ur_slot_release(self, slot);
            return code;
        }
        fill(sqe, &self->slots[slot], operation);
        sqe->user_data = ur_ops_arm(&self->ops, slot);
    }
    self->chain_open = operation->flags & LINKS;
    return (int64_t)sqe->user_data;
}

int32_t udpring_ring_reserve(struct udpring_ring *self, uint32_t n, struct udpring_reason *why)
{
    int code = ur_ring_usable(&self->ring);
    if (code)
        return code;
    if (n > self->ring.sq_entries)
        return ur_fail(why, -E2BIG, "the submission queue holds %u entries: open the ring with entries=%u", self->ring.sq_entries,
                       n);
    if (ur_sq_room(&self->ring) >= n)
        return 0;
    if (self->chain_open)
        return ur_fail(why, -E2BIG, "a chain of linked operations is open, and %u entries of the submission queue are left: "
                       "reserve room before its first operation", ur_sq_room(&self->ring));
    code = ur_submit(&self->ring);
    if (code < 0)
        return code;
    return ur_sq_room(&self->ring) >= n ? 0 : ur_fail(why, -EAGAIN, "the kernel takes no submissions for lack of memory: reap "
                                                      "completions and try again");
}

int32_t udpring_ring_retract(struct udpring_ring *self, uint32_t n)
{
    int code = ur_ring_usable(&self->ring);
    if (code)
        return code;
    struct ur_ring *ring = &self->ring;
    uint32_t queued = ur_sq_queued(ring);
    if (n > queued)
        n = queued;
    for (uint32_t i = 1; i <= n; i++) {
        uint64_t user_data = ring->sqes[(ring->sq_tail - i) & ring->sq_mask].user_data;
        if (UR_KIND(user_data) != UR_KIND_PYTHON)
            continue;
        int64_t slot = ur_ops_resolve(&self->ops, user_data);
        if (slot < 0)
            continue;
        ur_ops_done(&self->ops, (uint32_t)slot);
        ur_slot_release(self, (uint32_t)slot);
    }
    ur_sqe_retract(ring, n);
    queued -= n;
    self->chain_open = queued && (ring->sqes[(ring->sq_tail - 1) & ring->sq_mask].flags & LINKS);
    return (int32_t)n;
}
