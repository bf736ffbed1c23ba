/* The memory of an operation: what is copied into the slot's block or lent by the caller, and how the SQE names it. One case for
 * each kind of memory, none for an operation. */
#include <limits.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <signal.h>
#include <sys/epoll.h>

#include "owned.h"

static uint64_t address(const void *memory)
{
    return (uint64_t)(uintptr_t)memory;
}

static uint8_t *block(struct udpring_ring *self, struct ur_slot *slot, size_t bytes)
{
    slot->block = ur_pool_take(&self->pool, bytes);
    slot->block_bytes = slot->block ? bytes : 0;
    return slot->block;
}

/* A completion shows `room` bytes at `out`, or as many as its result says in units. */
static void show(struct ur_slot *slot, const uint8_t *out, size_t room, uint32_t unit)
{
    slot->out = out;
    slot->room = (uint32_t)room;
    slot->unit = unit;
}

/* Copies the caller's bytes behind `head` zeroed ones, with a NUL after them. */
static int copy(struct udpring_ring *self, struct ur_slot *slot, size_t head, const struct ur_request *request)
{
    if (!block(self, slot, head + request->size + 1))
        return -ENOMEM;
    memset(slot->block, 0, head);
    if (request->size)
        memcpy(slot->block + head, request->memory, request->size);
    slot->block[head + request->size] = 0;
    return 0;
}

/* Room for the kernel to write `room` bytes. It is zeroed only when the kernel may report bytes that it did not write. */
static int room_for(struct udpring_ring *self, struct ur_slot *slot, size_t room, uint32_t unit, bool zero)
{
    if (!block(self, slot, room))
        return -ENOMEM;
    if (zero)
        memset(slot->block, 0, room);
    show(slot, slot->block, room, unit);
    return 0;
}

static int equip_message(struct udpring_ring *self, struct ur_slot *slot, const struct ur_request *request, bool out)
{
    bool group = request->row->memory == UR_MEMORY_MESSAGE_GROUP;
    size_t control = ((size_t)request->control_size + 15) & ~(size_t)15;
    size_t payload = request->pin ? request->size : group ? 0 : out ? request->size : request->len;
    size_t own = request->pin ? 0 : payload;
    if (!group && control + own && !block(self, slot, control + own))
        return -ENOMEM;
    uint8_t *bytes = request->pin ? (uint8_t *)(uintptr_t)request->memory : own ? slot->block + control : NULL;
    slot->vector = (struct iovec){.iov_base = bytes, .iov_len = payload};
    slot->header = (struct msghdr){.msg_iov = group ? NULL : &slot->vector, .msg_iovlen = group ? 0 : 1};
    slot->header.msg_control = request->control_size && !group ? slot->block : NULL;
    slot->header.msg_controllen = request->control_size;
    slot->control_room = request->control_size;
    if (out) {
        if (own)
            memcpy(bytes, request->memory, own);
        if (request->control_size)
            memcpy(slot->block, request->control, request->control_size);
        if (request->name_size) {
            memcpy(&slot->name, request->name, request->name_size);
            slot->header.msg_name = &slot->name;
            slot->header.msg_namelen = request->name_size;
        }
        return 0;
    }
    slot->header.msg_name = group ? NULL : &slot->name;
    slot->header.msg_namelen = sizeof(slot->name);
    if (!group && own)
        memset(bytes, 0, request->op_flags & MSG_TRUNC ? own : 0);
    if (!group)
        show(slot, bytes, own, 1);
    return 0;
}

static int equip_vector(struct udpring_ring *self, struct ur_slot *slot, const struct ur_request *request)
{
    if (!block(self, slot, request->count * sizeof(struct iovec)))
        return -ENOMEM;
    struct iovec *vector = (struct iovec *)(void *)slot->block;
    for (uint32_t i = 0; i < request->count; i++)
        vector[i] = (struct iovec){.iov_base = request->pieces[i], .iov_len = request->sizes[i]};
    return 0;
}

static int equip_xattr_get(struct udpring_ring *self, struct ur_slot *slot, const struct ur_request *request)
{
    size_t names = (request->size + 1 + 7) & ~(size_t)7;
    if (!block(self, slot, names + request->len))
        return -ENOMEM;
    memcpy(slot->block, request->memory, request->size);
    slot->block[request->size] = 0;
    show(slot, slot->block + names, request->len, 1);
    return 0;
}

static int equip_open(struct udpring_ring *self, struct ur_slot *slot, const struct ur_request *request)
{
    struct open_how how = {.flags = request->off, .mode = request->len, .resolve = request->addr};
    int code = copy(self, slot, sizeof(how), request);
    if (!code)
        memcpy(slot->block, &how, sizeof(how));
    return code;
}

static int set_time(struct ur_slot *slot, uint64_t ns)
{
    slot->time.tv_sec = (int64_t)(ns / 1000000000u);
    slot->time.tv_nsec = (long long)(ns % 1000000000u);
    return 0;
}

int ur_slot_equip(struct udpring_ring *self, struct ur_slot *slot, const struct ur_request *request)
{
    slot->memory = request->row->memory;
    slot->pin = request->pin;
    slot->fixed_epoch = self->fixed_epoch;
    slot->bundle = false;   /* the slot's last operation may have been one */
    switch ((enum ur_memory)request->row->memory) {
    case UR_MEMORY_IN:
        return request->pin ? 0 : copy(self, slot, 0, request);
    case UR_MEMORY_OUT:
        return request->pin ? 0 : room_for(self, slot, request->len, 1, request->op_flags & MSG_TRUNC);
    case UR_MEMORY_NAME:
        memcpy(&slot->name, request->memory, request->size);
        return 0;
    case UR_MEMORY_ACCEPT:
        slot->name_length = sizeof(slot->name);
        return 0;
    case UR_MEMORY_PATH:
    case UR_MEMORY_TWO_PATHS:
    case UR_MEMORY_OPTION_SET:
    case UR_MEMORY_XATTR_SET:
        return copy(self, slot, 0, request);
    case UR_MEMORY_OPEN:
        return equip_open(self, slot, request);
    case UR_MEMORY_STATX: {
        int code = copy(self, slot, sizeof(struct statx), request);
        show(slot, slot->block, sizeof(struct statx), 0);
        return code;
    }
    case UR_MEMORY_FILES: {
        int code = copy(self, slot, 0, request);
        show(slot, slot->block, request->size, 0);
        return code;
    }
    case UR_MEMORY_EVENTS:
        return room_for(self, slot, request->len * sizeof(struct epoll_event), sizeof(struct epoll_event), false);
    case UR_MEMORY_SIGINFO:
        return room_for(self, slot, sizeof(siginfo_t), 0, true);
    case UR_MEMORY_TWO_FILES:
        return room_for(self, slot, 2 * sizeof(int32_t), 0, true);
    case UR_MEMORY_OPTION_GET:
        return room_for(self, slot, request->len, 1, false);
    case UR_MEMORY_XATTR_GET:
        return equip_xattr_get(self, slot, request);
    case UR_MEMORY_VECTOR:
        return equip_vector(self, slot, request);
    case UR_MEMORY_MESSAGE_OUT:
        return equip_message(self, slot, request, true);
    case UR_MEMORY_MESSAGE_GROUP:
    case UR_MEMORY_MESSAGE_IN:
        return equip_message(self, slot, request, false);
    case UR_MEMORY_GROUP:
        slot->bundle = request->prio & IORING_RECVSEND_BUNDLE;
        return 0;
    case UR_MEMORY_TIME:
        return set_time(slot, request->addr);
    case UR_MEMORY_TIME_UPDATE:
        return set_time(slot, request->off);
    default:
        return 0;
    }
}

static uint32_t poll_mask(uint32_t events)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return events << 16 | events >> 16;
#else
    return events;
#endif
}

/* The second of two texts, each with a NUL at its end. */
static const uint8_t *second(const uint8_t *texts)
{
    return texts + strlen((const char *)texts) + 1;
}

static void fill_xattr(struct io_uring_sqe *sqe, const struct ur_slot *slot, const struct ur_request *request)
{
    const uint8_t *value = slot->out ? slot->out : slot->block + request->size - request->len;
    const uint8_t *after = second(slot->block);
    sqe->addr = address(slot->block);
    sqe->off = address(value);
    /* Getting: the texts end at request->size. Setting: at the value. */
    bool path = slot->out ? after <= slot->block + request->size : after < value;
    sqe->addr3 = path ? address(after) : 0;
}

/* The bytes of a command lie in the SQE, from addr3 to its end. `addr` of them is where the pinned memory's address belongs. */
static void fill_command(struct udpring_ring *self, struct io_uring_sqe *sqe, const struct ur_request *request)
{
    uint8_t *bytes = (uint8_t *)sqe + offsetof(struct io_uring_sqe, addr3);
    sqe->addr = 0;
    if (request->control_size)
        memcpy(bytes, request->control, request->control_size);
    uint64_t memory = address(request->memory);
    if (request->pin)
        memcpy(bytes + request->addr, &memory, sizeof(memory));
}

/* Kinds whose memory has a form of its own. */
static void fill_form(struct io_uring_sqe *sqe, const struct ur_slot *slot, const struct ur_request *request)
{
    switch ((enum ur_memory)request->row->memory) {
    case UR_MEMORY_XATTR_GET:
    case UR_MEMORY_XATTR_SET:
        fill_xattr(sqe, slot, request);
        break;
    case UR_MEMORY_OPTION_GET:
        sqe->len = 0;
        sqe->optlen = request->len;
        sqe->optval = address(slot->block);
        break;
    case UR_MEMORY_OPTION_SET:
        sqe->optlen = (uint32_t)request->size;
        sqe->optval = address(slot->block);
        break;
    case UR_MEMORY_WORD:
        sqe->addr3 = request->addr;
        sqe->addr = address(request->memory);
        break;
    case UR_MEMORY_PAGES:
        sqe->addr = address(request->memory);
        sqe->len = (uint32_t)request->size;
        break;
    case UR_MEMORY_VECTOR:
        sqe->addr = address(slot->block);
        sqe->len = request->count;
        break;
    case UR_MEMORY_MESSAGE_OUT:
    case UR_MEMORY_MESSAGE_IN:
    case UR_MEMORY_MESSAGE_GROUP:
        sqe->addr = address(&slot->header);
        sqe->len = 1;
        break;
    case UR_MEMORY_TIME:
        sqe->addr = address(&slot->time);
        sqe->len = 1;
        break;
    case UR_MEMORY_TIME_UPDATE:
        sqe->addr2 = address(&slot->time);
        break;
    default:
        break;
    }
}

/* Kinds whose memory is bytes, names or numbers. */
static void fill_own(struct io_uring_sqe *sqe, const struct ur_slot *slot, const struct ur_request *request)
{
    switch ((enum ur_memory)request->row->memory) {
    case UR_MEMORY_IN:
        sqe->addr = address(request->pin ? request->memory : slot->block);
        sqe->len = (uint32_t)request->size;
        break;
    case UR_MEMORY_OUT:
        sqe->addr = address(request->pin ? request->memory : slot->block);
        sqe->len = request->pin ? (uint32_t)request->size : request->len;
        break;
    case UR_MEMORY_NAME:
        sqe->addr = address(&slot->name);
        sqe->off = request->size;
        break;
    case UR_MEMORY_ACCEPT:
        sqe->addr = address(&slot->name);
        sqe->addr2 = address(&slot->name_length);
        break;
    case UR_MEMORY_PATH:
    case UR_MEMORY_EVENTS:
    case UR_MEMORY_TWO_FILES:
        sqe->addr = address(slot->block);
        break;
    case UR_MEMORY_TWO_PATHS:
        sqe->addr = address(slot->block);
        sqe->addr2 = address(second(slot->block));
        break;
    case UR_MEMORY_OPEN:
        sqe->addr = address(slot->block + sizeof(struct open_how));
        sqe->addr2 = address(slot->block);
        sqe->len = sizeof(struct open_how);
        break;
    case UR_MEMORY_STATX:
        sqe->addr = address(slot->block + sizeof(struct statx));
        sqe->addr2 = address(slot->block);
        break;
    case UR_MEMORY_FILES:
        sqe->addr = address(slot->block);
        sqe->len = (uint32_t)(request->size / sizeof(int32_t));
        break;
    case UR_MEMORY_SIGINFO:
        sqe->addr2 = address(slot->block);
        break;
    default:
        fill_form(sqe, slot, request);
        break;
    }
}

void ur_request_fill(struct udpring_ring *self, struct io_uring_sqe *sqe, const struct ur_slot *slot,
                     const struct ur_request *request)
{
    sqe->opcode = request->row->opcode;
    sqe->flags = (uint8_t)request->flags;
    sqe->ioprio = request->row->prio | request->prio;
    sqe->fd = request->fd;
    sqe->off = request->off;
    sqe->addr = request->addr;
    sqe->len = request->len;
    sqe->op_flags = request->row->bits | request->op_flags;
    sqe->buf_index = request->buffer;
    sqe->file_index = request->index;
    switch ((enum ur_memory)request->row->memory) {
    case UR_MEMORY_NONE:
    case UR_MEMORY_SHOTS:
        break;
    case UR_MEMORY_POLL:
        sqe->poll32_events = poll_mask(request->op_flags);
        break;
    case UR_MEMORY_MESSAGE:
        sqe->off = (uint64_t)UR_KIND_MESSAGE << 56 | request->off;
        sqe->addr = IORING_MSG_DATA;
        break;
    case UR_MEMORY_SEND_FD:
        sqe->off = (uint64_t)UR_KIND_MESSAGE << 56 | request->off;
        sqe->addr = IORING_MSG_SEND_FD;
        sqe->addr3 = request->addr;
        break;
    case UR_MEMORY_COMMAND:
        fill_command(self, sqe, request);
        break;
    case UR_MEMORY_FIXED:
        sqe->addr = address((uint8_t *)self->fixed[request->buffer].iov_base + request->addr);
        break;
    case UR_MEMORY_GIVE: {
        const struct ur_group *group = ur_group_of(self, request->buffer);
        sqe->addr = address(group->memory + request->off * group->bytes);
        sqe->len = group->bytes;
        break;
    }
    case UR_MEMORY_GROUP:
    case UR_MEMORY_GROUP_SEND:
    case UR_MEMORY_MESSAGE_GROUP:
        sqe->flags |= IOSQE_BUFFER_SELECT;
        fill_own(sqe, slot, request);
        break;
    default:
        fill_own(sqe, slot, request);
        break;
    }
}
