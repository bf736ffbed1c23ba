/* What a program registers with the owned ring: buffer groups, files, buffers, limits of workers, busy polling. */
#include <stdlib.h>
#include <sys/mman.h>

#include "owned.h"

static struct ur_group *free_group(struct udpring_ring *self)
{
    for (uint32_t i = 0; i < UR_GROUPS_MAX; i++)
        if (!self->groups[i].memory)
            return &self->groups[i];
    return NULL;
}

int32_t udpring_ring_provide(struct udpring_ring *self, uint32_t group, uint32_t count, uint32_t bytes, uint8_t *memory,
                             struct udpring_reason *why)
{
    struct ur_group *fresh = free_group(self);
    if (!fresh)
        return ur_fail(why, -ENOBUFS, "a ring has at most %d buffer groups", UR_GROUPS_MAX);
    if (group > UINT16_MAX || !bytes || (uint64_t)count * bytes > UDPRING_OPERATION_BYTES_MAX)
        return ur_fail(why, -EINVAL, "group %u with %u buffers of %u bytes: groups go to 65535, memory to 1 GiB", group, count,
                       bytes);
    memset(fresh, 0, sizeof(*fresh));
    int code = ur_bufring_open(&fresh->ring, &self->ring, (uint16_t)group, count, why);
    if (code)
        return code;
    fresh->bytes = bytes;
    fresh->views = memory != NULL;
    if (!memory)
        memory = mmap(NULL, (size_t)count * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        ur_bufring_close(&fresh->ring, &self->ring);
        return ur_fail(why, -ENOMEM, "%u buffers of %u bytes: no memory", count, bytes);
    }
    fresh->memory = memory;
    fresh->mapped = (size_t)count * bytes;
    for (uint32_t id = 0; id < count; id++)
        ur_group_recycle(fresh, (uint16_t)id);
    ur_bufring_publish(&fresh->ring);
    uint32_t used = (uint32_t)(fresh - self->groups) + 1;
    if (used > self->group_count)
        self->group_count = used;
    return 0;
}

int32_t udpring_ring_recycle(struct udpring_ring *self, uint32_t group, const uint16_t *ids, uint32_t count)
{
    int code = ur_ring_usable(&self->ring);
    if (code && code != -EBADFD)
        return code;
    struct ur_group *found = (struct ur_group *)ur_group_of(self, group);
    if (!found)
        return -ENOENT;
    for (uint32_t i = 0; i < count; i++)
        if (ids[i] < found->ring.count)
            ur_group_recycle(found, ids[i]);
    ur_bufring_publish(&found->ring);
    return 0;
}

int32_t udpring_ring_unprovide(struct udpring_ring *self, uint32_t group)
{
    int32_t code = udpring_ring_harvest(self, NULL, 0);   /* buffers that the last harvest lent return now */
    if (code < 0)
        return code;
    struct ur_group *found = (struct ur_group *)ur_group_of(self, group);
    if (!found)
        return -ENOENT;
    for (uint32_t i = 0; i < self->ops.count; i++) {
        const struct ur_slot *slot = &self->slots[i];
        if (ur_ops_busy(&self->ops, i) && ur_slot_selects(slot) && &self->groups[slot->group] == found)
            return -EBUSY;
    }
    code = ur_bufring_close(&found->ring, &self->ring);
    if (code)
        return code;
    if (!found->views)
        munmap(found->memory, found->mapped);
    memset(found, 0, sizeof(*found));
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

int32_t udpring_ring_buffers(struct udpring_ring *self, uint8_t *const *memory, const uint64_t *lengths, uint32_t count)
{
    if (self->fixed_count)
        return -EBUSY;
    if (!count || count > UR_FIXED_MAX)
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++)
        self->fixed[i] = memory ? (struct iovec){.iov_base = memory[i], .iov_len = lengths[i]} : (struct iovec){0};
    int code = ur_ring_register(&self->ring, IORING_REGISTER_BUFFERS, self->fixed, count);
    if (!code)
        self->fixed_count = count;
    return code;
}

int32_t udpring_ring_buffer_update(struct udpring_ring *self, uint32_t index, uint8_t *memory, uint64_t length)
{
    if (index >= self->fixed_count)
        return self->fixed_count ? -ERANGE : -ENXIO;
    struct iovec fresh = {.iov_base = memory, .iov_len = length};
    struct io_uring_rsrc_update2 update = {.offset = index, .data = (uint64_t)(uintptr_t)&fresh, .nr = 1};
    int code = ur_ring_register(&self->ring, IORING_REGISTER_BUFFERS_UPDATE, &update, sizeof(update));
    if (code == 1)
        self->fixed[index] = fresh;
    return code;
}

uint64_t udpring_ring_fixed_retire(struct udpring_ring *self)
{
    return self->fixed_epoch++;
}

uint64_t udpring_ring_fixed_oldest(const struct udpring_ring *self)
{
    uint64_t oldest = self->fixed_epoch;
    for (uint32_t i = 0; i < self->ops.count; i++)
        if (ur_ops_busy(&self->ops, i) && self->slots[i].memory == UR_MEMORY_FIXED && self->slots[i].fixed_epoch < oldest)
            oldest = self->slots[i].fixed_epoch;
    return oldest;
}

int32_t udpring_ring_buffers_clear(struct udpring_ring *self)
{
    int code = ur_ring_register(&self->ring, IORING_UNREGISTER_BUFFERS, NULL, 0);
    if (!code)
        self->fixed_count = 0;
    return code;
}

int32_t udpring_ring_workers(struct udpring_ring *self, uint32_t *limits)
{
    return ur_ring_register(&self->ring, IORING_REGISTER_IOWQ_MAX_WORKERS, limits, 2);
}

int32_t udpring_ring_napi(struct udpring_ring *self, int64_t busy_poll_us, int32_t prefer)
{
    struct io_uring_napi napi = {.busy_poll_to = (uint32_t)busy_poll_us, .prefer_busy_poll = prefer != 0};
    if (busy_poll_us < 0)
        return ur_ring_register(&self->ring, IORING_UNREGISTER_NAPI, NULL, 1);
    return ur_ring_register(&self->ring, IORING_REGISTER_NAPI, &napi, 1);
}
