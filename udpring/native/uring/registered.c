/* What a program registers with the owned ring: files, buffers, limits of workers, busy polling. Buffer groups: groups.c. */
#include <stdlib.h>

#include "owned.h"

int32_t udpring_ring_unprovide(struct udpring_ring *self, uint32_t group)
{
    int32_t code = udpring_ring_harvest(self, NULL, 0);   /* buffers that the last harvest lent return now */
    return code < 0 ? code : ur_group_close(self, group);
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
