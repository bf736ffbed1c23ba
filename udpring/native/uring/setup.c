/* Opens a ring.
 *   1. Call io_uring_setup() with the best set of flags. On EINVAL try the next set.
 *   2. Map the queues. On ENOMEM in step 1 or 2 halve the entries, down to 8, and try again with the same set.
 *   3. Check that io_uring_enter() is allowed too: a seccomp filter may refuse each call separately.
 *   4. Limit the kernel's worker threads. */
#include "../base.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "confined.h"
#include "explain.h"
#include "maps.h"
#include "ring.h"
#include "sys.h"
#include "thread.h"

#define BASIC (IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP)

/* Best first. The kernels that they need: 6.6, 6.1, 5.19, 5.18, 5.6, 5.1. */
static const uint32_t flag_sets[] = {
    IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_NO_SQARRAY | BASIC,
    IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_SUBMIT_ALL | BASIC,
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL | BASIC,
    IORING_SETUP_SUBMIT_ALL | BASIC,
    BASIC,
    0,
};

/* Without these features (all since 5.11) completions get lost, or waiting needs another design. */
#define NEEDED (IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE | IORING_FEAT_FAST_POLL | IORING_FEAT_EXT_ARG)

/* With SQPOLL the kernel's thread does the work that these flags defer to the owner. */
#define NOT_WITH_SQPOLL (IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN)

/* The most io-wq threads, bounded and unbounded, of one ring's task. */
#define WORKERS_DEFAULT 4

static uint32_t round_up(uint32_t entries)
{
    uint32_t rounded = 1;
    while (rounded < entries)
        rounded <<= 1;
    return rounded;
}

static size_t page_aligned(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

static void *map_queue(int fd, size_t bytes, uint64_t offset)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)offset);
    if (memory == MAP_FAILED)
        return NULL;
    /* A forked child must not use the queues or keep the ring alive. */
    madvise(memory, bytes, MADV_DONTFORK);
    return memory;
}

static int map_queues(struct ur_ring *ring, const struct io_uring_params *params)
{
    size_t sq_bytes = params->sq_off.array + params->sq_entries * sizeof(uint32_t);
    size_t cq_bytes = params->cq_off.cqes + (params->cq_entries * sizeof(struct io_uring_cqe) << ring->cqe_shift);
    bool single = params->features & IORING_FEAT_SINGLE_MMAP && !(ring->deny & UR_DENY_SINGLE_MMAP);
    if (single)
        sq_bytes = cq_bytes = sq_bytes > cq_bytes ? sq_bytes : cq_bytes;
    ring->sq_map_bytes = page_aligned(sq_bytes);
    ring->cq_map_bytes = page_aligned(cq_bytes);
    ring->sqes_bytes = page_aligned(params->sq_entries * sizeof(struct io_uring_sqe) << ring->sqe_shift);

    errno = 0;
    ring->sq_map = map_queue(ring->fd, ring->sq_map_bytes, IORING_OFF_SQ_RING);
    if (ring->sq_map)
        ring->cq_map = single ? ring->sq_map : map_queue(ring->fd, ring->cq_map_bytes, IORING_OFF_CQ_RING);
    if (ring->cq_map)
        ring->sqes = map_queue(ring->fd, ring->sqes_bytes, IORING_OFF_SQES);
    if (!ring->sqes) {
        int error = errno;
        ur_unmap_queues(ring);
        /* EAGAIN: the memory could not be locked (mlockall). Cause and cure are those of ENOMEM. */
        return error == EAGAIN || !error ? -ENOMEM : -error;
    }
    return 0;
}

static uint32_t *word_at(void *map, uint32_t offset)
{
    return (uint32_t *)(void *)((char *)map + offset);
}

static void find_fields(struct ur_ring *ring, const struct io_uring_params *params)
{
    ring->sq_khead = word_at(ring->sq_map, params->sq_off.head);
    ring->sq_ktail = word_at(ring->sq_map, params->sq_off.tail);
    ring->sq_kflags = word_at(ring->sq_map, params->sq_off.flags);
    ring->sq_entries = *word_at(ring->sq_map, params->sq_off.ring_entries);
    ring->sq_mask = *word_at(ring->sq_map, params->sq_off.ring_mask);
    ring->sq_head = ring->sq_sent = ring->sq_tail = *ring->sq_khead;

    ring->cq_khead = word_at(ring->cq_map, params->cq_off.head);
    ring->cq_ktail = word_at(ring->cq_map, params->cq_off.tail);
    ring->cq_koverflow = word_at(ring->cq_map, params->cq_off.overflow);
    ring->cq_entries = *word_at(ring->cq_map, params->cq_off.ring_entries);
    ring->cq_mask = *word_at(ring->cq_map, params->cq_off.ring_mask);
    ring->cqes = (const struct io_uring_cqe *)(const void *)((char *)ring->cq_map + params->cq_off.cqes);
    ring->cq_head = *ring->cq_khead;

    /* Array slot i always refers to SQE i, so the array is written only once. */
    if (!(ring->setup_flags & IORING_SETUP_NO_SQARRAY)) {
        uint32_t *array = word_at(ring->sq_map, params->sq_off.array);
        for (uint32_t i = 0; i < ring->sq_entries; i++)
            array[i] = i;
    }
}

/* One attempt: set-up and mapping. Undoes everything on failure. */
static int attempt(struct ur_ring *ring, uint32_t entries, uint32_t cq_entries, uint32_t flags,
                   const struct ur_ring_options *options)
{
    struct io_uring_params params = {
        .flags = flags,
        .cq_entries = flags & IORING_SETUP_CQSIZE ? cq_entries : 0,
        .sq_thread_idle = options->sq_thread_idle,
        .sq_thread_cpu = options->sq_thread_cpu,
        .wq_fd = options->wq_fd,
    };
    ring->fd = ur_sys_setup(entries, &params);
    if (ring->fd < 0)
        return ring->fd;
    ring->setup_flags = params.flags;
    ring->features = params.features;
    ring->sqe_shift = (flags & IORING_SETUP_SQE128) != 0;
    ring->cqe_shift = (flags & IORING_SETUP_CQE32) != 0;
    int code = (params.features & NEEDED) == NEEDED ? map_queues(ring, &params) : -EOPNOTSUPP;
    if (code) {
        close(ring->fd);
        return code;
    }
    find_fields(ring, &params);
    return 0;
}

/* Tries the next flag set on EINVAL, and smaller sizes with the same set on ENOMEM. */
static int negotiate(struct ur_ring *ring, uint32_t *entries, uint32_t cq_entries, const struct ur_ring_options *options)
{
    bool disabled = options->disabled || ur_thread_confined();   /* only a disabled ring takes restrictions */
    int code = -EINVAL;
    uint32_t deny = options->flags_deny | (options->flags_want & IORING_SETUP_SQPOLL ? NOT_WITH_SQPOLL : 0);
    for (size_t i = 0; i < UR_ARRAY_LENGTH(flag_sets);) {
        if (flag_sets[i] & deny) {
            i++;
            continue;
        }
        uint32_t flags = flag_sets[i] | options->flags_want | (disabled ? IORING_SETUP_R_DISABLED : 0);
        if (options->visible_work && flags & IORING_SETUP_DEFER_TASKRUN)
            flags |= IORING_SETUP_TASKRUN_FLAG;
        code = attempt(ring, *entries, cq_entries, flags, options);
        if (code == -EINVAL) {
            i++;
        } else if (code == -ENOMEM && *entries > UR_ENTRIES_LEAST) {
            *entries /= 2;
            if (cq_entries / 2 >= *entries)
                cq_entries /= 2;
            ring->halvings++;
        } else {
            break;
        }
    }
    return code;
}

/* Checks that io_uring_enter() is allowed, and limits the worker threads. */
static int settle(struct ur_ring *ring)
{
    ring->owner = ur_thread_number();
    ring->owner_tid = gettid();
    ring->state = UR_RING_LIVE;
    int code = ur_sys_enter(ring->fd, 0, 0, IORING_ENTER_GETEVENTS, NULL, 0);
    if (code < 0)
        return code;
    uint32_t limits[2] = {ring->workers[0], ring->workers[1]};   /* the kernel overwrites it with the old limits */
    code = ur_sys_register(ring->fd, IORING_REGISTER_IOWQ_MAX_WORKERS, limits, 2);
    ring->iowq_error = code < 0 ? code : 0;
    return 0;
}

int ur_ring_open(struct ur_ring *ring, const struct ur_ring_options *options, struct udpring_reason *why)
{
    static const struct ur_ring_options defaults;
    if (!options)
        options = &defaults;
    if (ur_kept_take(ring, options))
        return 0;
    memset(ring, 0, sizeof(*ring));
    ring->fd = -1;
    ring->asked_entries = options->entries;
    ring->asked_cq_entries = options->cq_entries;
    ring->asked_visible_work = options->visible_work;
    ring->deny = options->flags_deny;
    for (size_t i = 0; i < UR_ARRAY_LENGTH(ring->workers); i++)
        ring->workers[i] = options->workers[i] ? options->workers[i] : WORKERS_DEFAULT;

    uint32_t entries = options->entries ? options->entries : UR_ENTRIES_DEFAULT;
    if (entries < UR_ENTRIES_LEAST)
        entries = UR_ENTRIES_LEAST;
    entries = entries > IORING_MAX_ENTRIES ? IORING_MAX_ENTRIES : round_up(entries);
    uint32_t cq_entries = options->cq_entries ? options->cq_entries : 4 * entries;
    if (cq_entries < entries)
        return ur_fail(why, -EINVAL, "a completion queue of %u entries is smaller than the submission queue of %u: "
                       "ask for at least as many", cq_entries, entries);
    if (cq_entries > IORING_MAX_CQ_ENTRIES)
        cq_entries = IORING_MAX_CQ_ENTRIES;

    int code = ur_fork_watch();
    if (code)
        return ur_fail(why, code, "pthread_atfork: %s", strerror(-code));
    ring->forks = ur_fork_count();

    code = negotiate(ring, &entries, cq_entries, options);
    if (code == -EOPNOTSUPP)
        ur_fail(why, code, "io_uring_setup: features 0x%x, but NODROP, SUBMIT_STABLE, FAST_POLL and EXT_ARG are needed: "
                "Linux 5.11 or newer", ring->features);
    else if (code)
        ur_explain(why, code, "io_uring_setup", entries, options->flags_want);
    if (code) {
        memset(ring, 0, sizeof(*ring));
        return code;
    }
    ring->state = UR_RING_DISABLED;
    if (ur_thread_confined() && (code = ur_restrict(ring)) < 0) {
        ur_ring_close(ring);
        return ur_fail(why, code, "IORING_REGISTER_RESTRICTIONS: %s", strerror(-code));
    }
    if (options->disabled)
        return 0;
    code = ring->restricted ? ur_ring_enable(ring) : settle(ring);
    if (code) {
        ur_explain(why, code, "io_uring_enter", entries, 0);
        ring->restricted = false;   /* so that it is not kept: it does not work */
        ur_ring_close(ring);
    }
    return code;
}

int ur_ring_enable(struct ur_ring *ring)
{
    if (ring->state == UR_RING_NONE || ring->state == UR_RING_CLOSED)
        return -EBADF;
    if (ring->forks != ur_fork_count())
        return -EXDEV;
    if (ring->state != UR_RING_DISABLED)
        return -EINVAL;
    int code = ur_sys_register(ring->fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
    if (code < 0)
        return code;
    ring->setup_flags &= ~IORING_SETUP_R_DISABLED;
    return settle(ring);
}

int ur_ring_resize(struct ur_ring *ring, uint32_t entries, uint32_t cq_entries)
{
    int code = ur_submit(ring);
    if (code < 0)
        return code;
    if (ur_sq_queued(ring))
        return -EAGAIN;
    if (entries > IORING_MAX_ENTRIES || cq_entries > IORING_MAX_CQ_ENTRIES || cq_entries < entries)
        return -EINVAL;
    struct io_uring_params params = {
        .flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
        .sq_entries = round_up(entries < UR_ENTRIES_LEAST ? UR_ENTRIES_LEAST : entries),
        .cq_entries = cq_entries,
    };
    code = ur_sys_register(ring->fd, IORING_REGISTER_RESIZE_RINGS, &params, 1);
    if (code < 0)
        return code;
    /* From here on the kernel uses the new queues alone. */
    params.features = ring->features;
    struct ur_ring fresh = *ring;
    fresh.sq_map = fresh.cq_map = NULL;
    fresh.sqes = NULL;
    if (map_queues(&fresh, &params)) {
        ur_ring_abandon(ring);
        return -ENOTRECOVERABLE;
    }
    ur_unmap_queues(ring);
    *ring = fresh;
    find_fields(ring, &params);
    return 0;
}
