/* Queues an operation of the owned ring.
 *   1. Check the arguments before taking anything.
 *   2. Take a slot and equip it with its memory (equip.c).
 *   3. Take an SQE last and fill all of it. So a failed preparation leaves nothing queued. */
#include <limits.h>
#include <unistd.h>

#include "owned.h"

#define LINKS (IOSQE_IO_LINK | IOSQE_IO_HARDLINK)
#define FLAGS (IOSQE_FIXED_FILE | IOSQE_IO_DRAIN | LINKS | IOSQE_ASYNC | IOSQE_CQE_SKIP_SUCCESS)
#define PATHS_MAX (2 * PATH_MAX)

static int check_fixed(struct udpring_ring *self, const struct ur_request *request)
{
    if (request->buffer >= self->fixed_count)
        return ur_fail(&self->why, -ERANGE, "registered buffer %u: there are %u", request->buffer, self->fixed_count);
    size_t room = self->fixed[request->buffer].iov_len;
    if (request->addr > room || request->len > room - request->addr)
        return ur_fail(&self->why, -ERANGE, "%u bytes at %llu of registered buffer %u, which has %zu", request->len,
                       (unsigned long long)request->addr, request->buffer, room);
    return 0;
}

/* A text of `texts` parts, with a NUL between them and none at the end. */
static int check_texts(struct udpring_ring *self, const struct ur_request *request, uint64_t bytes, unsigned least, unsigned most)
{
    if (bytes > PATHS_MAX)
        return ur_fail(&self->why, -ENAMETOOLONG, "a path of %llu bytes: at most %d", (unsigned long long)bytes, PATH_MAX);
    unsigned parts = 1;
    for (uint64_t i = 0; i < bytes; i++)
        parts += !request->memory[i];
    return parts >= least && parts <= most ? 0 : ur_fail(&self->why, -EINVAL, "a path or name with a NUL in it");
}

static int check_command(struct udpring_ring *self, const struct ur_request *request)
{
    uint32_t room = self->ring.setup_flags & IORING_SETUP_SQE128 ? 80 : 16;
    if (request->control_size > room)
        return ur_fail(&self->why, -ERANGE, "a command of %u bytes: entries of this ring hold %u", request->control_size, room);
    if (request->pin && (request->addr > room || room - request->addr < sizeof(uint64_t)))
        return ur_fail(&self->why, -ERANGE, "an address at byte %llu of a command: entries of this ring hold %u",
                       (unsigned long long)request->addr, room);
    if (request->pin && request->flags & IOSQE_CQE_SKIP_SUCCESS)
        return ur_fail(&self->why, -EINVAL, "SKIP_SUCCESS on an operation that owns memory");
    return 0;
}

static int check_pages(struct udpring_ring *self, const struct ur_request *request)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    if (((uintptr_t)request->memory | request->size) & (page - 1))
        return ur_fail(&self->why, -EINVAL, "madvise changes whole pages: memory and length must be multiples of %llu",
                       (unsigned long long)page);
    return 0;
}

static int check_memory(struct udpring_ring *self, const struct ur_request *request)
{
    switch ((enum ur_memory)request->row->memory) {
    case UR_MEMORY_MESSAGE:
    case UR_MEMORY_SEND_FD:
        return request->off >> 56 ? ur_fail(&self->why, -ERANGE, "a message has 56 bits") : 0;
    case UR_MEMORY_COMMAND:
        return check_command(self, request);
    case UR_MEMORY_NAME:
        return request->size > sizeof(struct sockaddr_storage)
                   ? ur_fail(&self->why, -ERANGE, "an address of %llu bytes: at most %zu", (unsigned long long)request->size,
                             sizeof(struct sockaddr_storage)) : 0;
    case UR_MEMORY_PATH:
    case UR_MEMORY_OPEN:
    case UR_MEMORY_STATX:
        return check_texts(self, request, request->size, 1, 1);
    case UR_MEMORY_TWO_PATHS:
        return check_texts(self, request, request->size, 2, 2);
    case UR_MEMORY_XATTR_GET:
        return request->len > UDPRING_CONTROL_BYTES_MAX ? ur_fail(&self->why, -ERANGE, "a value of %u bytes: at most 65536", request->len)
                                                        : check_texts(self, request, request->size, 1, 2);
    case UR_MEMORY_XATTR_SET:
        if (request->len > UDPRING_CONTROL_BYTES_MAX || request->len >= request->size)
            return ur_fail(&self->why, -ERANGE, "a value of %u bytes: at most 65536", request->len);
        return check_texts(self, request, request->size - request->len, 2, 3);
    case UR_MEMORY_FILES:
        return request->size % sizeof(int32_t) ? -EINVAL : 0;
    case UR_MEMORY_EVENTS:
        return request->len > 65536 ? ur_fail(&self->why, -ERANGE, "%u events: at most 65536", request->len) : 0;
    case UR_MEMORY_WORD:
        return !request->pin || request->size != sizeof(uint32_t) || (uintptr_t)request->memory % sizeof(uint32_t)
                   ? ur_fail(&self->why, -EINVAL, "a futex has 4 bytes, aligned to 4") : 0;
    case UR_MEMORY_PAGES:
        return request->pin ? check_pages(self, request) : -EINVAL;
    case UR_MEMORY_VECTOR:
        return request->count > UDPRING_VECTOR_MAX ? ur_fail(&self->why, -ERANGE, "%u buffers: at most %u", request->count,
                                                            UDPRING_VECTOR_MAX) : 0;
    case UR_MEMORY_GROUP:
    case UR_MEMORY_MESSAGE_GROUP:
    case UR_MEMORY_GROUP_SEND:
    case UR_MEMORY_GIVE:
    case UR_MEMORY_TAKE_BACK:
        return ur_group_check(self, request);
    case UR_MEMORY_FIXED:
        return check_fixed(self, request);
    case UR_MEMORY_TIME:
        return request->addr > INT64_MAX ? ur_fail(&self->why, -ERANGE, "a time-out above 2^63 ns") : 0;
    case UR_MEMORY_TIME_UPDATE:
        return request->off > INT64_MAX ? ur_fail(&self->why, -ERANGE, "a time-out above 2^63 ns") : 0;
    default:
        return 0;
    }
}

/* The kernel ignores some flags that make no sense for a read, and would refuse HIPRI by a completion. */
static int check_rw_flags(struct udpring_ring *self, const struct ur_request *request)
{
    const uint32_t both = UR_RWF_HIPRI | UR_RWF_NOWAIT | UR_RWF_DONTCACHE;
    const uint32_t writing = both | UR_RWF_DSYNC | UR_RWF_SYNC | UR_RWF_APPEND | UR_RWF_NOAPPEND | UR_RWF_ATOMIC | UR_RWF_NOSIGNAL;
    uint32_t odd = request->op_flags & ~(request->row->takes & UR_WRITES ? writing : both);
    if (odd)
        return ur_fail(&self->why, -EINVAL, "rw_flags 0x%x: %s does not take 0x%x", request->op_flags, request->row->name, odd);
    if (request->op_flags & UR_RWF_HIPRI)
        return ur_fail(&self->why, -EINVAL, "rw_flags 0x%x: HIPRI needs a ring with IORING_SETUP_IOPOLL, and this one has none",
                       request->op_flags);
    return 0;
}

/* A drain of Linux 6.16 to 6.18 waits until all requests but the waiting ones have ended, and goes on for some requests after the
 * operation with the flag has ended. The notification of a zero-copy send is a request from the beginning. So such a send, and all
 * behind it, would never start. */
static int check_drain(struct udpring_ring *self, const struct ur_request *request)
{
    if (request->flags & IOSQE_IO_DRAIN)
        return ur_fail(&self->why, -EINVAL, "%s with DRAIN: the kernel would never start it. Wait for the operations before it",
                       request->row->name);
    return ur_fail(&self->why, -EINVAL, "%s on a ring that has used DRAIN: the kernel might never start it. Use another ring",
                   request->row->name);
}

/* Whether the kernel's len is a number of bytes of memory that this operation takes. */
static bool measures(const struct ur_row *row)
{
    return row->memory == UR_MEMORY_OUT || row->memory == UR_MEMORY_MESSAGE_IN || row->memory == UR_MEMORY_FIXED ||
           row->memory == UR_MEMORY_OPTION_GET;
}

static uint32_t given(const struct ur_request *request)
{
    return (request->off ? UR_TAKES_OFF : 0) | (request->addr ? UR_TAKES_ADDR : 0) | (request->len ? UR_TAKES_LEN : 0) |
           (request->op_flags ? UR_TAKES_BITS : 0) | (request->prio ? UR_TAKES_PRIO : 0) |
           (request->buffer ? UR_TAKES_BUFFER : 0) | (request->index ? UR_TAKES_INDEX : 0);
}

int ur_request_check(struct udpring_ring *self, const struct ur_request *request)
{
    const struct ur_row *row = request->row;
    if (ur_unlikely(!row))
        return ur_fail(&self->why, -EOPNOTSUPP, "no operation has this number");
    if (ur_unlikely(request->flags & ~FLAGS))
        return ur_fail(&self->why, -EINVAL, "flags 0x%x: unknown, or BUFFER_SELECT, which the operation sets itself", request->flags);
    if (ur_unlikely(request->flags & IOSQE_CQE_SKIP_SUCCESS && row->memory >= UR_MEMORY_SHOTS))
        return ur_fail(&self->why, -EINVAL, "SKIP_SUCCESS on an operation that owns memory or has several completions: only its "
                       "completion says when to free it");
    if (ur_unlikely(request->flags & IOSQE_CQE_SKIP_SUCCESS && row->takes & UR_QUIET))
        return ur_fail(&self->why, -EINVAL, "SKIP_SUCCESS on %s: the kernel would leave out the completion of a failure too", row->name);
    if (ur_unlikely(request->flags & IOSQE_FIXED_FILE && !(row->takes & UR_TAKES_FILE)))
        return ur_fail(&self->why, -EINVAL, "%s takes no registered file", row->name);
    if (ur_unlikely(given(request) & ~row->takes))
        return ur_fail(&self->why, -EINVAL, "%s takes fewer arguments (given 0x%x of 0x%x)", row->name, given(request), row->takes);
    if (ur_unlikely(request->len > UDPRING_OPERATION_BYTES_MAX && measures(row)))
        return ur_fail(&self->why, -ERANGE, "length %u: at most %u", request->len, UDPRING_OPERATION_BYTES_MAX);
    if (ur_unlikely(request->size > UDPRING_OPERATION_BYTES_MAX))
        return ur_fail(&self->why, -ERANGE, "payload of %llu bytes: at most %u", (unsigned long long)request->size,
                       UDPRING_OPERATION_BYTES_MAX);
    if (ur_unlikely(request->name_size > sizeof(struct sockaddr_storage)))
        return ur_fail(&self->why, -ERANGE, "an address of %u bytes: at most %zu", request->name_size, sizeof(struct sockaddr_storage));
    if (ur_unlikely(request->control_size > UDPRING_CONTROL_BYTES_MAX))
        return ur_fail(&self->why, -ERANGE, "control messages: at most %u bytes", UDPRING_CONTROL_BYTES_MAX);
    if (ur_unlikely(row->takes & UR_NOTIFIES && (self->drained || request->flags & IOSQE_IO_DRAIN)))
        return check_drain(self, request);
    if (ur_unlikely(request->op_flags && row->takes & (UR_READS | UR_WRITES))) {
        int code = check_rw_flags(self, request);
        if (code)
            return code;
    }
    return check_memory(self, request);
}

/* Takes an SQE. Submits if necessary to make room, but not between the links of a chain, because that would cut it. */
static int next_sqe(struct udpring_ring *self, struct io_uring_sqe **sqe)
{
    *sqe = ur_sqe(&self->ring);
    if (*sqe)
        return 0;
    if (self->chain_open)
        return ur_fail(&self->why, -E2BIG, "a chain of linked operations does not fit into the %u entries of the submission queue "
                       "that are left: reserve room first", self->ring.sq_entries);
    *sqe = ur_sqe_or_submit(&self->ring);
    return *sqe ? 0 : ur_fail(&self->why, -EAGAIN, "the kernel takes no submissions for lack of memory. Reap completions and try again");
}

int64_t ur_request_queue(struct udpring_ring *self, const struct ur_request *request)
{
    if (ur_unlikely(self->eventfd >= 0 && request->row->takes & (UR_READS | UR_POLLS)))
        ur_notice_file(self, request);
    struct io_uring_sqe *sqe;
    int code;
    if (request->flags & IOSQE_CQE_SKIP_SUCCESS) {
        code = next_sqe(self, &sqe);
        if (code)
            return code;
        ur_request_fill(self, sqe, NULL, request);
        sqe->user_data = (uint64_t)UR_KIND_SILENT << 56 | (++self->silent & 0xffffffffffffffull);
    } else {
        int64_t taken = ur_ops_take(&self->ops);
        if (ur_unlikely(taken < 0))
            return ur_fail(&self->why, (int)taken, "all %u operation slots are busy: reap completions first", self->ops.count);
        uint32_t slot = (uint32_t)taken;
        self->busy++;
        code = ur_slot_equip(self, &self->slots[slot], request);
        if (ur_likely(!code))
            code = next_sqe(self, &sqe);
        else
            ur_fail(&self->why, code, "%llu bytes: no memory", (unsigned long long)(request->len + request->size));
        if (ur_unlikely(code)) {
            ur_slot_release(self, slot);
            return code;
        }
        ur_request_fill(self, sqe, &self->slots[slot], request);
        sqe->user_data = ur_ops_arm(&self->ops, slot);
        if (ur_unlikely(ur_slot_groups(&self->slots[slot])))
            ur_group_began(self, &self->slots[slot], request);
    }
    self->chain_open = request->flags & LINKS;
    self->drained |= request->flags & IOSQE_IO_DRAIN;
    return (int64_t)sqe->user_data;
}

int64_t ur_request_put(struct udpring_ring *self, const struct ur_request *request)
{
    int code = ur_request_check(self, request);
    return ur_likely(!code) ? ur_request_queue(self, request) : code;
}

/* A ring that is not enabled yet may be filled up to its size. */
static int fillable(struct udpring_ring *self)
{
    int code = ur_ring_usable(&self->ring);
    if (ur_unlikely(code && code != -EBADFD))
        return code;
    self->why.text[0] = 0;
    return 0;
}

int64_t udpring_ring_put(struct udpring_ring *self, uint32_t operation, uint32_t flags, int32_t fd, uint64_t off, uint64_t addr,
                         uint32_t len, uint32_t op_flags, uint64_t extra, const uint8_t *memory, uint64_t size, uint64_t pin)
{
    int code = fillable(self);
    if (ur_unlikely(code))
        return code;
    struct ur_request request = {
        .row = ur_row(operation), .flags = flags, .fd = fd, .off = off, .addr = addr, .len = len, .op_flags = op_flags,
        .prio = (uint16_t)extra, .buffer = (uint16_t)(extra >> 16), .index = (uint32_t)(extra >> 32),
        .memory = memory, .size = size, .pin = pin,
    };
    return ur_request_put(self, &request);
}

int64_t udpring_ring_put_message(struct udpring_ring *self, uint32_t operation, uint32_t flags, int32_t fd, uint64_t off,
                                 uint64_t addr, uint32_t len, uint32_t op_flags, uint64_t extra, const uint8_t *memory, uint64_t size,
                                 uint64_t pin, const uint8_t *name, uint32_t name_size, const uint8_t *control, uint32_t control_size)
{
    int code = fillable(self);
    if (ur_unlikely(code))
        return code;
    struct ur_request request = {
        .row = ur_row(operation), .flags = flags, .fd = fd, .off = off, .addr = addr, .len = len, .op_flags = op_flags,
        .prio = (uint16_t)extra, .buffer = (uint16_t)(extra >> 16), .index = (uint32_t)(extra >> 32),
        .memory = memory, .size = size, .pin = pin,
        .name = name, .name_size = name_size, .control = control, .control_size = control_size,
    };
    return ur_request_put(self, &request);
}

int64_t udpring_ring_put_vector(struct udpring_ring *self, uint32_t operation, uint32_t flags, int32_t fd, uint64_t off,
                                uint32_t op_flags, uint64_t extra, uint8_t *const *memory, const uint64_t *sizes, uint32_t count,
                                uint64_t pin)
{
    int code = fillable(self);
    if (ur_unlikely(code))
        return code;
    struct ur_request request = {
        .row = ur_row(operation), .flags = flags, .fd = fd, .off = off, .op_flags = op_flags,
        .prio = (uint16_t)extra, .buffer = (uint16_t)(extra >> 16), .index = (uint32_t)(extra >> 32),
        .pieces = memory, .sizes = sizes, .count = count, .pin = pin,
    };
    return ur_request_put(self, &request);
}

const char *udpring_ring_why(struct udpring_ring *self)
{
    return self->why.text;
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
    code = ur_make_room(&self->ring, n);
    return code != -EAGAIN ? code : ur_fail(why, -EAGAIN, "the kernel takes no submissions for lack of memory: reap "
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
    if (n > UDPRING_HARVEST_MAX - self->released_count)
        n = UDPRING_HARVEST_MAX - self->released_count;
    for (uint32_t i = 1; i <= n; i++) {
        uint64_t user_data = ur_sqe_at(ring, ring->sq_tail - i)->user_data;
        if (UR_KIND(user_data) != UR_KIND_PYTHON)
            continue;
        int64_t slot = ur_ops_resolve(&self->ops, user_data);
        if (slot < 0)
            continue;
        ur_ops_done(&self->ops, (uint32_t)slot);
        if (ur_slot_groups(&self->slots[slot]))
            ur_group_ended(self, &self->slots[slot], -ECANCELED);
        if (self->slots[slot].pin)
            ur_pin_release(self, self->slots[slot].pin);
        ur_slot_release(self, (uint32_t)slot);
    }
    ur_sqe_retract(ring, n);
    queued -= n;
    self->chain_open = queued && (ur_sqe_at(ring, ring->sq_tail - 1)->flags & LINKS);
    return (int32_t)n;
}
