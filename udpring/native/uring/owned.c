#include "owned.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "graveyard.h"

int32_t udpring_ring_open(struct udpring_ring **out, const struct udpring_ring_options *options, struct udpring_reason *why)
{
    *out = NULL;
    struct udpring_ring *self = calloc(1, sizeof(*self));
    if (!self)
        return ur_fail(why, -ENOMEM, "no memory for a ring");
    struct ur_ring_options wanted = {
        .entries = options->entries,
        .cq_entries = options->cq_entries,
        .flags_deny = options->flags_deny,
        .disabled = options->disabled != 0,
    };
    int code = ur_ring_open(&self->ring, &wanted, why);
    if (code) {
        free(self);
        return code;
    }
    uint32_t slots = options->slots ? options->slots : self->ring.cq_entries;
    code = ur_ops_open(&self->ops, UR_KIND_PYTHON, slots);
    if (!code) {
        self->slots = calloc(slots, sizeof(*self->slots));
        code = self->slots ? 0 : -ENOMEM;
    }
    if (code) {
        ur_fail(why, code, "%u operation slots: %s", slots, strerror(-code));
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

void ur_slot_release(struct udpring_ring *self, uint32_t slot)
{
    free(self->slots[slot].block);
    memset(&self->slots[slot], 0, sizeof(self->slots[slot]));
    ur_ops_give(&self->ops, slot);
    self->busy--;
}

void ur_group_recycle(struct ur_group *group, uint16_t id)
{
    ur_bufring_add(&group->ring, group->memory + (size_t)id * group->bytes, group->bytes, id);
}

/* Call after closing the ring. Frees all memory if no operation is in flight. Else leaks the memory that one may still
 * access. */
static void close_memory(struct udpring_ring *self, bool leak)
{
    for (uint32_t i = 0; i < self->group_count; i++) {
        struct ur_group *group = &self->groups[i];
        size_t bytes = (size_t)group->ring.count * group->bytes;
        ur_bufring_close(&group->ring, &self->ring);
        if (leak)
            ur_graveyard_leak(group->memory, bytes);
        else
            munmap(group->memory, bytes);
    }
    self->group_count = 0;
    for (uint32_t i = 0; self->slots && i < self->ops.count; i++) {
        if (leak)
            ur_graveyard_leak(self->slots[i].block, self->slots[i].block_bytes);
        else
            free(self->slots[i].block);
    }
    if (leak)
        ur_graveyard_leak(self->slots, self->ops.count * sizeof(*self->slots));
    else
        free(self->slots);
    self->slots = NULL;
    ur_ops_close(&self->ops);
    self->busy = self->ended_count = self->lent_count = self->fixed_count = 0;
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
    close_memory(self, left > 0);
    return left;
}

void udpring_ring_free(struct udpring_ring *self)
{
    if (!self)
        return;
    if (self->ring.state == UR_RING_CLOSED)
        free(self);
    else
        ur_graveyard_leak(self, sizeof(*self));
}

int32_t udpring_ring_fileno(const struct udpring_ring *self)
{
    return self->ring.fd >= 0 ? self->ring.fd : -EBADF;
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
        .ready = ur_cq_ready(ring),
        .busy_slots = self->busy,
        .in_flight = ring->in_flight,
        .stale = self->ops.stale + self->unknown,
        .lost = ur_cq_lost(ring),
    };
    return 0;
}

int32_t udpring_ring_provide(struct udpring_ring *self, uint32_t group, uint32_t count, uint32_t bytes,
                             struct udpring_reason *why)
{
    if (self->group_count == UR_GROUPS_MAX)
        return ur_fail(why, -ENOBUFS, "a ring has at most %d buffer groups", UR_GROUPS_MAX);
    if (group > UINT16_MAX || !bytes || (uint64_t)count * bytes > UDPRING_OPERATION_BYTES_MAX)
        return ur_fail(why, -EINVAL, "group %u with %u buffers of %u bytes: groups go to 65535, memory to 1 GiB", group, count,
                       bytes);
    struct ur_group *fresh = &self->groups[self->group_count];
    memset(fresh, 0, sizeof(*fresh));
    int code = ur_bufring_open(&fresh->ring, &self->ring, (uint16_t)group, count, why);
    if (code)
        return code;
    fresh->bytes = bytes;
    fresh->memory = mmap(NULL, (size_t)count * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh->memory == MAP_FAILED) {
        ur_bufring_close(&fresh->ring, &self->ring);
        return ur_fail(why, -ENOMEM, "%u buffers of %u bytes: no memory", count, bytes);
    }
    for (uint32_t id = 0; id < count; id++)
        ur_group_recycle(fresh, (uint16_t)id);
    ur_bufring_publish(&fresh->ring);
    self->group_count++;
    return 0;
}

int32_t udpring_ring_files(struct udpring_ring *self, const int32_t *fds, uint32_t count)
{
    if (fds)
        return ur_ring_register(&self->ring, IORING_REGISTER_FILES, fds, count);
    if (!count || count > 32768)
        return -EINVAL;
    int32_t *sparse = malloc(count * sizeof(*sparse));
    if (!sparse)
        return -ENOMEM;
    memset(sparse, 0xff, count * sizeof(*sparse));
    int code = ur_ring_register(&self->ring, IORING_REGISTER_FILES, sparse, count);
    free(sparse);
    return code;
}

int32_t udpring_ring_files_update(struct udpring_ring *self, uint32_t offset, const int32_t *fds, uint32_t count)
{
    struct io_uring_files_update update = {.offset = offset, .fds = (uint64_t)(uintptr_t)fds};
    return ur_ring_register(&self->ring, IORING_REGISTER_FILES_UPDATE, &update, count);
}

int32_t udpring_ring_files_clear(struct udpring_ring *self)
{
    return ur_ring_register(&self->ring, IORING_UNREGISTER_FILES, NULL, 0);
}

int32_t udpring_ring_eventfd(struct udpring_ring *self, int32_t fd)
{
    if (fd < 0)
        return ur_ring_register(&self->ring, IORING_UNREGISTER_EVENTFD, NULL, 0);
    return ur_ring_register(&self->ring, IORING_REGISTER_EVENTFD, &fd, 1);
}

int32_t udpring_ring_buffers(struct udpring_ring *self, uint8_t *const *memory, const uint64_t *lengths, uint32_t count)
{
    if (!count) {
        int code = ur_ring_register(&self->ring, IORING_UNREGISTER_BUFFERS, NULL, 0);
        if (!code)
            self->fixed_count = 0;
        return code;
    }
    if (count > UR_FIXED_MAX)
        return -EINVAL;
    if (self->fixed_count)
        return -EBUSY;
    for (uint32_t i = 0; i < count; i++)
        self->fixed[i] = (struct iovec){.iov_base = memory[i], .iov_len = lengths[i]};
    int code = ur_ring_register(&self->ring, IORING_REGISTER_BUFFERS, self->fixed, count);
    if (!code)
        self->fixed_count = count;
    return code;
}

uint64_t udpring_graveyard_bytes(void)
{
    return ur_graveyard_bytes();
}

uint64_t udpring_graveyard_blocks(void)
{
    return ur_graveyard_blocks();
}
