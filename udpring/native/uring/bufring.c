#include "bufring.h"

#include <sys/mman.h>

#include "graveyard.h"
#include "thread.h"

/* The tail overlays the last two bytes of the first entry, so these bytes are never written as part of the entry. */
static uint16_t *tail_of(struct io_uring_buf *entries)
{
    return &entries[0].resv;
}

int ur_bufring_open(struct ur_bufring *buffers, struct ur_ring *ring, uint16_t group, uint32_t count,
                    struct udpring_reason *why)
{
    memset(buffers, 0, sizeof(*buffers));
    if (!count || count > IORING_MAX_PBUF_ENTRIES || (count & (count - 1)))
        return ur_fail(why, -EINVAL, "a buffer ring of %u entries: it must be a power of two, at most %u", count,
                       IORING_MAX_PBUF_ENTRIES);
    size_t bytes = count * sizeof(struct io_uring_buf);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED)
        return ur_fail(why, -errno, "a buffer ring of %u entries: no memory", count);
    madvise(memory, bytes, MADV_DONTFORK);

    struct io_uring_buf_reg request = {.ring_addr = (uint64_t)(uintptr_t)memory, .ring_entries = count, .bgid = group};
    int code = ur_ring_register(ring, IORING_REGISTER_PBUF_RING, &request, 1);
    if (code < 0) {
        munmap(memory, bytes);
        if (code == -EEXIST)
            return ur_fail(why, code, "buffer group %u is registered already: use another", group);
        if (code == -EINVAL)
            return ur_fail(why, code, "IORING_REGISTER_PBUF_RING: the kernel has no buffer rings: Linux 5.19 or newer");
        return ur_fail(why, code, "IORING_REGISTER_PBUF_RING: %s", strerror(-code));
    }
    *buffers = (struct ur_bufring){.entries = memory, .count = count, .group = group, .bytes = bytes,
                                   .forks = ur_fork_count()};
    return 0;
}

void ur_bufring_add(struct ur_bufring *buffers, void *address, uint32_t length, uint16_t id)
{
    struct io_uring_buf *entry = &buffers->entries[buffers->tail++ & (buffers->count - 1)];
    entry->addr = (uint64_t)(uintptr_t)address;
    entry->len = length;
    entry->bid = id;
}

void ur_bufring_publish(struct ur_bufring *buffers)
{
    ur_release16(tail_of(buffers->entries), buffers->tail);
}

int ur_bufring_close(struct ur_bufring *buffers, struct ur_ring *ring)
{
    if (!buffers->entries)
        return 0;
    if (buffers->forks != ur_fork_count()) {
        memset(buffers, 0, sizeof(*buffers));
        return 0;
    }
    struct io_uring_buf_reg request = {.bgid = buffers->group};
    int code = ur_ring_register(ring, IORING_UNREGISTER_PBUF_RING, &request, 1);
    if (code < 0 && code != -EBADF)
        return code;
    if (code == -EBADF && ring->undrained > 0)
        ur_graveyard_leak(buffers->entries, buffers->bytes);
    else
        munmap(buffers->entries, buffers->bytes);
    memset(buffers, 0, sizeof(*buffers));
    return 0;
}
