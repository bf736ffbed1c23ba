#include "slots.h"

#include <sys/mman.h>

int udp_slots_map(struct udp_slots *slots, uint32_t count, uint32_t header_bytes, uint32_t payload_bytes)
{
    /* Not rounded to pages, or the headers of all slots would compete for the same cache sets. */
    uint32_t stride = (header_bytes + payload_bytes + 63) & ~63u;
    size_t bytes = (size_t)stride * count;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return -errno;
    (void)madvise(base, bytes, MADV_NOHUGEPAGE);   /* a huge page would touch 31 slots for one datagram */
    *slots = (struct udp_slots){.base = base, .bytes = bytes, .stride = stride, .count = count};
    return 0;
}

void udp_slots_wipe_on_fork(struct udp_slots *slots)
{
    (void)madvise(slots->base, slots->bytes, MADV_WIPEONFORK);
}

void udp_slots_unmap(struct udp_slots *slots)
{
    if (slots->base)
        munmap(slots->base, slots->bytes);
    *slots = (struct udp_slots){0};
}
