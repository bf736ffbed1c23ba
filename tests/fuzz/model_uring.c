#include "model_uring.h"

#include <poll.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "model_kernel.h"
#include "model_threads.h"
#include "uring/sys.h"

enum { RINGS = 16, PENDING = 512, BACKLOG = 4096, GROUPS = 2, NAME_ROOM = 32 };
enum { HEAD = 0, TAIL = 4, MASK = 8, ENTRIES = 12, FLAGS = 16, DROPPED = 20, CQ = 64, CQES = 128 };

struct group {
    struct io_uring_buf *entries;
    uint32_t count;
    uint16_t head;
};

/* A payload that the kernel still reads. Owner: this file. Freed with its notification or by uring_reset(). */
struct notice {
    struct notice *next;
    int ring;
    uint64_t user_data, sum;
    uint32_t count;
    struct iovec piece[];
};

/* Owner: this file, while its descriptor is open. The core unmaps the two mappings. */
struct ring {
    int fd;                     /* 0: not open */
    uint32_t entries, cq_entries, sq_head, flags;
    uint8_t *queues;
    struct io_uring_sqe *sqes;
    struct io_uring_sqe pending[PENDING];
    uint64_t deadline[PENDING];
    uint32_t pending_count;
    struct io_uring_cqe backlog[BACKLOG];
    uint32_t backlog_count;
    struct group group[GROUPS];
    int event;
    uint64_t ended;
};

static struct ring rings[RINGS];
bool uring_by_hand, uring_stuck, uring_cancels_one, uring_notifies_failures;
uint32_t uring_unknown_flags;
struct uring_failing uring_failing;
static struct notice *notices;

static uint32_t *word(const struct ring *ring, uint32_t at)
{
    return (uint32_t *)(void *)(ring->queues + at);
}

static struct ring *ring_of(int fd)
{
    for (uint32_t i = 0; i < RINGS; i++)
        if (fd && rings[i].fd == fd && kernel_file(fd))
            return &rings[i];
    return NULL;
}

void uring_reset(void)
{
    while (uring_notify(0, false))
        ;
    for (uint32_t i = 0; i < RINGS; i++)
        rings[i].fd = 0;
    uring_by_hand = uring_stuck = uring_cancels_one = uring_notifies_failures = false;
    uring_unknown_flags = 0;
    uring_failing = (struct uring_failing){0};
}

void *uring_map(int fd, uint64_t offset)
{
    struct ring *ring = ring_of(fd);
    return !ring ? NULL : offset == IORING_OFF_SQES ? (void *)ring->sqes : ring->queues;
}

static size_t pages(size_t bytes)
{
    return (bytes + 4095) / 4096 * 4096;
}

static void *memory(size_t bytes)
{
    bool held = kernel.fault_held;
    kernel.fault_held = true;
    void *made = mmap(NULL, pages(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    kernel.fault_held = held;
    CLAIM(made != MAP_FAILED, "no memory");
    return memset(made, 0, bytes);
}

static int setup(uint32_t entries, struct io_uring_params *params)
{
    struct ring *ring = NULL;
    if (params->flags & uring_unknown_flags)
        return -EINVAL;
    for (uint32_t i = 0; i < RINGS && !ring; i++)
        if (!ring_of(rings[i].fd))
            ring = &rings[i];
    CLAIM(ring, "too many rings");
    memset(ring, 0, offsetof(struct ring, pending));   /* the counters are reset */
    ring->pending_count = ring->backlog_count = 0;
    memset(ring->group, 0, sizeof(ring->group));
    ring->event = 0;
    ring->ended = 0;
    ring->entries = entries;
    ring->flags = params->flags;
    ring->cq_entries = params->flags & IORING_SETUP_CQSIZE ? 8 : 2 * entries;
    while (params->flags & IORING_SETUP_CQSIZE && ring->cq_entries < params->cq_entries)
        ring->cq_entries *= 2;
    uint32_t array = CQES + ring->cq_entries * (uint32_t)sizeof(struct io_uring_cqe);
    ring->queues = memory(array + entries * sizeof(uint32_t));
    ring->sqes = memory(entries * sizeof(struct io_uring_sqe));
    *word(ring, MASK) = entries - 1;
    *word(ring, ENTRIES) = entries;
    *word(ring, CQ + MASK) = ring->cq_entries - 1;
    *word(ring, CQ + ENTRIES) = ring->cq_entries;
    params->sq_entries = entries;
    params->cq_entries = ring->cq_entries;
    params->features = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_FAST_POLL |
                       IORING_FEAT_EXT_ARG | IORING_FEAT_POLL_32BITS | IORING_FEAT_CQE_SKIP;
    params->sq_off = (struct io_sqring_offsets){HEAD, TAIL, MASK, ENTRIES, FLAGS, DROPPED, array, 0, 0};
    params->cq_off = (struct io_cqring_offsets){CQ + HEAD, CQ + TAIL, CQ + MASK, CQ + ENTRIES, CQ + DROPPED, CQES, CQ + FLAGS, 0, 0};
    return ring->fd = kernel_open(KERNEL_OTHER, 0);
}

/* ---- completions ---- */

static bool cq_put(struct ring *ring, const struct io_uring_cqe *cqe)
{
    uint32_t tail = *word(ring, CQ + TAIL);
    if (tail - *word(ring, CQ + HEAD) >= ring->cq_entries)
        return false;
    memcpy(ring->queues + CQES + (tail & (ring->cq_entries - 1)) * sizeof(*cqe), cqe, sizeof(*cqe));
    *word(ring, CQ + TAIL) = tail + 1;
    return true;
}

static void flush_backlog(struct ring *ring)
{
    uint32_t put = 0;
    while (put < ring->backlog_count && cq_put(ring, &ring->backlog[put]))
        put++;
    memmove(ring->backlog, ring->backlog + put, (ring->backlog_count -= put) * sizeof(ring->backlog[0]));
    if (!ring->backlog_count)
        *word(ring, FLAGS) &= ~IORING_SQ_CQ_OVERFLOW;
}

static void post(struct ring *ring, uint64_t user_data, int32_t result, uint32_t flags)
{
    struct io_uring_cqe cqe = {user_data, result, flags};
    if (!(flags & IORING_CQE_F_MORE))
        ring->ended = user_data;
    if (ring->backlog_count || !cq_put(ring, &cqe)) {
        CLAIM(ring->backlog_count < BACKLOG, "the core takes no completions");
        ring->backlog[ring->backlog_count++] = cqe;
        *word(ring, FLAGS) |= IORING_SQ_CQ_OVERFLOW;
    }
    struct kernel_file *event = ring->event ? kernel_file(ring->event) : NULL;
    if (event)
        event->event++;
}

void uring_post_stray(uint32_t number, uint64_t user_data, int32_t result, uint32_t flags)
{
    struct ring *ring = &rings[number % RINGS];
    if (ring_of(ring->fd))
        post(ring, user_data, result, flags);
}

uint64_t uring_ended(uint32_t number)
{
    struct ring *ring = &rings[number % RINGS];
    return ring_of(ring->fd) ? ring->ended : 0;
}

/* ---- zero-copy sends ---- */

static uint64_t sum_of(const struct iovec *piece, uint32_t count)
{
    uint64_t sum = 1469598103934665603u;
    for (uint32_t i = 0; i < count; i++)
        for (size_t k = 0; k < piece[i].iov_len; k++)
            sum = (sum ^ ((const uint8_t *)piece[i].iov_base)[k]) * 1099511628211u;
    return sum;
}

/* The kernel uses the payload until the notification, but not the list of its pieces. */
static void keep_payload(const struct ring *ring, const struct io_uring_sqe *sqe)
{
    const struct msghdr *header = (const struct msghdr *)(uintptr_t)sqe->addr;
    uint32_t count = (uint32_t)header->msg_iovlen;
    uint32_t after = kernel.fault.after;
    kernel.fault.after = 0;   /* the model's own allocations never fail */
    struct notice *notice = malloc(sizeof(*notice) + count * sizeof(notice->piece[0])), **end = &notices;
    kernel.fault.after = after;
    CLAIM(notice, "no memory");
    *notice = (struct notice){.ring = ring->fd, .user_data = sqe->user_data, .count = count, .sum = sum_of(header->msg_iov, count)};
    memcpy(notice->piece, header->msg_iov, count * sizeof(notice->piece[0]));
    while (*end)
        end = &(*end)->next;
    *end = notice;
}

bool uring_notify(uint32_t n, bool copied)
{
    struct notice **at = &notices;
    while (*at && n--)
        at = &(*at)->next;
    struct notice *notice = *at;
    if (!notice)
        return false;
    *at = notice->next;
    CLAIM(sum_of(notice->piece, notice->count) == notice->sum, "a payload was changed before its notification");
    struct ring *ring = ring_of(notice->ring);
    if (ring)
        post(ring, notice->user_data, copied ? (int32_t)IORING_NOTIF_USAGE_ZC_COPIED : 0, IORING_CQE_F_NOTIF);
    free(notice);
    return true;
}

/* ---- operations ---- */

/* Receives a datagram into a buffer of the group, in the kernel's layout. Returns the result. *flags: of the completion. */
static int32_t receive_into_group(struct ring *ring, const struct io_uring_sqe *sqe, uint32_t *flags)
{
    struct group *group = &ring->group[sqe->buf_group % GROUPS];
    const struct msghdr *given = (const struct msghdr *)(uintptr_t)sqe->addr;
    CLAIM(group->entries, "a receive from a group that is not registered");
    if (group->head == group->entries[0].resv)
        return -ENOBUFS;
    const struct io_uring_buf *buffer = &group->entries[group->head & (group->count - 1)];
    uint8_t *base = (uint8_t *)(uintptr_t)buffer->addr;
    size_t prefix = sizeof(struct io_uring_recvmsg_out) + given->msg_namelen + given->msg_controllen;
    CLAIM(buffer->len > prefix, "a buffer of %u bytes", buffer->len);
    memset(base, 0xee, prefix);
    struct iovec payload = {base + prefix, buffer->len - prefix};
    struct msghdr header = {.msg_name = base + sizeof(struct io_uring_recvmsg_out), .msg_namelen = given->msg_namelen,
                            .msg_control = base + sizeof(struct io_uring_recvmsg_out) + given->msg_namelen,
                            .msg_controllen = given->msg_controllen, .msg_iov = &payload, .msg_iovlen = 1};
    ssize_t got = kernel_receive(sqe->fd, &header);
    if (got < 0)
        return (int32_t)got;
    struct io_uring_recvmsg_out out = {header.msg_namelen, (uint32_t)header.msg_controllen, (uint32_t)got, (uint32_t)header.msg_flags};
    memcpy(base, &out, sizeof(out));
    *flags = IORING_CQE_F_BUFFER | (uint32_t)buffer->bid << IORING_CQE_BUFFER_SHIFT | (got ? IORING_CQE_F_MORE : 0);
    group->head++;
    return (int32_t)(prefix + (size_t)got);
}

/* Tries an operation. False: it waits. *ended: it has completed for good. */
static bool try(struct ring *ring, const struct io_uring_sqe *sqe, uint64_t deadline, bool *ended)
{
    const struct kernel_file *file = kernel_file(sqe->fd);
    uint32_t flags = 0;
    int32_t result;
    *ended = true;
    switch (sqe->opcode) {
    case IORING_OP_SENDMSG:
        result = kernel_send(sqe->fd, (const struct msghdr *)(uintptr_t)sqe->addr, false);
        break;
    case IORING_OP_SENDMSG_ZC:
        result = kernel_send(sqe->fd, (const struct msghdr *)(uintptr_t)sqe->addr, true);
        if (result < 0 && !uring_notifies_failures)
            break;
        keep_payload(ring, sqe);
        flags = IORING_CQE_F_MORE;
        break;
    case IORING_OP_RECVMSG:
        if (file && file->shut && !file->count && !(sqe->ioprio & IORING_RECV_MULTISHOT)) {
            ((struct msghdr *)(uintptr_t)sqe->addr)->msg_namelen = 0;   /* the end without a datagram */
            result = 0;
            break;
        }
        if (file && !file->count && !file->error)
            return false;
        if (sqe->ioprio & IORING_RECV_MULTISHOT)
            result = receive_into_group(ring, sqe, &flags);
        else
            result = (int32_t)kernel_receive(sqe->fd, (struct msghdr *)(uintptr_t)sqe->addr);
        *ended = !(flags & IORING_CQE_F_MORE);
        break;
    case IORING_OP_POLL_ADD:
        result = kernel_events(file, (short)sqe->poll32_events);
        if (!result)
            return false;
        break;
    case IORING_OP_TIMEOUT:
        if (threads_now_ns < deadline)
            return false;
        result = -ETIME;
        break;
    default:
        result = -EINVAL;
    }
    post(ring, sqe->user_data, result, flags);
    return true;
}

static void forget(struct ring *ring, uint32_t at)
{
    ring->pending_count--;
    memmove(&ring->pending[at], &ring->pending[at + 1], (ring->pending_count - at) * sizeof(ring->pending[0]));
    memmove(&ring->deadline[at], &ring->deadline[at + 1], (ring->pending_count - at) * sizeof(ring->deadline[0]));
}

static void progress(struct ring *ring)
{
    *word(ring, FLAGS) &= ~IORING_SQ_TASKRUN;
    if (uring_by_hand)
        return;
    for (uint32_t i = 0; i < ring->pending_count;) {
        bool ended;
        if (!try(ring, &ring->pending[i], ring->deadline[i], &ended))
            i++;
        else if (ended)
            forget(ring, i);
    }
}

/* Whether an operation would complete, or try to. */
static bool due(const struct io_uring_sqe *sqe, uint64_t deadline)
{
    const struct kernel_file *file = kernel_file(sqe->fd);
    switch (sqe->opcode) {
    case IORING_OP_RECVMSG: return !file || file->count || file->error || file->shut;
    case IORING_OP_POLL_ADD: return kernel_events(file, (short)sqe->poll32_events);
    case IORING_OP_TIMEOUT: return threads_now_ns >= deadline;
    default: return false;
    }
}

void uring_poke(void)
{
    for (uint32_t i = 0; i < RINGS; i++) {
        struct ring *ring = &rings[i];
        bool any = false;
        if (!ring_of(ring->fd))
            continue;
        for (uint32_t k = 0; k < ring->pending_count && !any; k++)
            any = due(&ring->pending[k], ring->deadline[k]);
        if (!any)
            continue;
        if (!(ring->flags & IORING_SETUP_DEFER_TASKRUN)) {
            progress(ring);
            continue;
        }
        if (ring->flags & IORING_SETUP_TASKRUN_FLAG)
            *word(ring, FLAGS) |= IORING_SQ_TASKRUN;
        struct kernel_file *event = ring->event ? kernel_file(ring->event) : NULL;
        if (event)
            event->event++;
    }
}

static void cancel(struct ring *ring, const struct io_uring_sqe *sqe)
{
    int32_t cancelled = 0;
    bool all = sqe->cancel_flags & IORING_ASYNC_CANCEL_ANY;
    if (all && uring_cancels_one) {
        post(ring, sqe->user_data, -EINVAL, 0);
        return;
    }
    for (uint32_t i = 0; i < ring->pending_count && !uring_stuck;) {
        if (!all && ring->pending[i].user_data != sqe->addr) {
            i++;
            continue;
        }
        uint64_t user_data = ring->pending[i].user_data;
        forget(ring, i);
        post(ring, user_data, -ECANCELED, 0);
        cancelled++;
    }
    post(ring, sqe->user_data, cancelled ? (all ? cancelled : 0) : -ENOENT, 0);
}

static void submit(struct ring *ring, const struct io_uring_sqe *sqe)
{
    bool ended;
    uint64_t deadline = 0;
    if (sqe->opcode == IORING_OP_ASYNC_CANCEL) {
        cancel(ring, sqe);
        return;
    }
    if (sqe->opcode == IORING_OP_TIMEOUT) {
        const struct __kernel_timespec *after = (const struct __kernel_timespec *)(uintptr_t)sqe->addr;
        deadline = threads_now_ns + (uint64_t)after->tv_sec * 1000000000u + (uint64_t)after->tv_nsec;
    }
    if (!uring_by_hand && try(ring, sqe, deadline, &ended) && ended)
        return;
    CLAIM(ring->pending_count < PENDING, "too many operations");
    ring->deadline[ring->pending_count] = deadline;
    ring->pending[ring->pending_count++] = *sqe;
}

const struct io_uring_sqe *uring_in_flight(uint32_t number, uint32_t n)
{
    const struct ring *ring = &rings[number];
    return ring_of(ring->fd) && n < ring->pending_count ? &ring->pending[n] : NULL;
}

void uring_complete(uint32_t number, uint32_t n, int32_t result, uint32_t flags)
{
    struct ring *ring = &rings[number];
    uint64_t user_data = ring->pending[n].user_data;
    if (!(flags & IORING_CQE_F_MORE))
        forget(ring, n);
    post(ring, user_data, result, flags);
}

struct io_uring_buf *uring_take_buffer(uint32_t number, const struct io_uring_sqe *sqe)
{
    struct group *group = &rings[number].group[sqe->buf_group % GROUPS];
    if (!group->entries || group->head == group->entries[0].resv)
        return NULL;
    return &group->entries[group->head++ & (group->count - 1)];
}

/* ---- the three calls ---- */

/* Owner: the call that waits, on its stack. */
struct waiting {
    struct ring *ring;
    uint32_t wanted;
};

static bool has_enough(void *context)
{
    struct waiting *waiting = context;
    progress(waiting->ring);
    return *word(waiting->ring, CQ + TAIL) - *word(waiting->ring, CQ + HEAD) >= waiting->wanted;
}

static int enter(struct ring *ring, uint32_t count, uint32_t wanted, uint32_t flags, const struct io_uring_getevents_arg *argument)
{
    uint32_t submitted = 0, tail = *word(ring, TAIL);
    bool fails = uring_failing.enters != 0;
    if (ring->flags & IORING_SETUP_R_DISABLED)
        return -EBADFD;
    uring_failing.enters -= fails;
    if (fails && !uring_failing.after)
        return -uring_failing.error;
    for (; submitted < count && ring->sq_head != tail; submitted++)
        submit(ring, &ring->sqes[ring->sq_head++ & (ring->entries - 1)]);
    *word(ring, HEAD) = ring->sq_head;
    if (fails)
        return submitted ? (int)submitted : -uring_failing.error;
    if (!(flags & IORING_ENTER_GETEVENTS))
        return (int)submitted;
    flush_backlog(ring);
    progress(ring);
    uint64_t deadline = UINT64_MAX;
    if (flags & IORING_ENTER_EXT_ARG && argument->ts) {
        const struct __kernel_timespec *limit = (const struct __kernel_timespec *)(uintptr_t)argument->ts;
        deadline = threads_now_ns + (uint64_t)limit->tv_sec * 1000000000u + (uint64_t)limit->tv_nsec;
    }
    struct waiting waiting = {ring, wanted};
    if (!wanted || threads_wait(has_enough, &waiting, deadline))
        return (int)submitted;
    return submitted ? (int)submitted : -ETIME;
}

static int register_it(struct ring *ring, uint32_t opcode, const void *argument)
{
    const struct io_uring_buf_reg *buffers = argument;
    int error = kernel_fault(false);
    if (error)
        return -error;
    switch (opcode) {
    case IORING_REGISTER_PBUF_RING:
        ring->group[buffers->bgid % GROUPS] =
            (struct group){(struct io_uring_buf *)(uintptr_t)buffers->ring_addr, buffers->ring_entries, 0};
        return 0;
    case IORING_UNREGISTER_PBUF_RING:
        ring->group[buffers->bgid % GROUPS].entries = NULL;
        return 0;
    case IORING_REGISTER_PBUF_STATUS: {
        struct io_uring_buf_status *status = (void *)(uintptr_t)argument;
        status->head = ring->group[status->buf_group % GROUPS].head;
        return 0;
    }
    case IORING_REGISTER_EVENTFD:
        memcpy(&ring->event, argument, sizeof(ring->event));
        return 0;
    case IORING_REGISTER_IOWQ_MAX_WORKERS:
        return 0;
    case IORING_REGISTER_ENABLE_RINGS:
        if (!(ring->flags & IORING_SETUP_R_DISABLED))
            return -EBADFD;
        ring->flags &= ~(uint32_t)IORING_SETUP_R_DISABLED;
        return 0;
    default:
        return -EINVAL;
    }
}

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);

/* Not every call has six arguments. Values read for missing ones are not used. */
__attribute__((no_sanitize("address"))) long __wrap_syscall(long number, ...)
{
    long argument[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        argument[i] = va_arg(list, long);
    va_end(list);
    if (!kernel.active || number == SYS_gettid)
        return __real_syscall(number, argument[0], argument[1], argument[2], argument[3], argument[4], argument[5]);
    struct ring *ring = ring_of((int)argument[0]);
    int result = -EPERM;
    int error = number == __NR_io_uring_setup ? kernel_fault(false) : number == __NR_io_uring_enter ? kernel_fault_wide() : 0;
    if (number == SYS_tgkill)
        result = kernel.owner_ended ? -ESRCH : 0;
    else if (error)
        result = -error;
    else if (number == __NR_io_uring_setup && kernel.has_uring)
        result = setup((uint32_t)argument[0], (struct io_uring_params *)argument[1]);
    else if (number == __NR_io_uring_enter)
        result = ring ? enter(ring, (uint32_t)argument[1], (uint32_t)argument[2], (uint32_t)argument[3],
                              (const struct io_uring_getevents_arg *)argument[4])
                      : -EBADF;
    else if (number == __NR_io_uring_register)
        result = ring ? register_it(ring, (uint32_t)argument[1], (const void *)argument[2]) : -EBADF;
    if (result >= 0)
        return result;
    errno = -result;
    return -1;
}
