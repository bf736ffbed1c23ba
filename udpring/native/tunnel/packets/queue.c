#include "queue.h"

#include <sys/mman.h>

/* The positions lie on a page of their own, before the packets. */
#define HEAD_BYTES 4096

_Static_assert(sizeof(struct packet_queue) <= HEAD_BYTES, "the positions fit into their page");

struct packet_queue *packet_queue_new(uint64_t bytes)
{
    /* Untouched pages cost nothing. */
    uint8_t *memory = mmap(NULL, HEAD_BYTES + bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    /* A forked child gets no packets. Positions stay, so that it reads zeros if it looks. */
    (void)madvise(memory + HEAD_BYTES, bytes, MADV_WIPEONFORK);
    struct packet_queue *queue = (struct packet_queue *)memory;
    queue->memory = memory + HEAD_BYTES;
    queue->bytes = bytes;
    return queue;
}

void packet_queue_free(struct packet_queue *queue)
{
    if (queue)
        munmap(queue, HEAD_BYTES + queue->bytes);
}

static struct packet_record *record_at(const struct packet_queue *queue, uint64_t position)
{
    return (struct packet_record *)(queue->memory + (position & (queue->bytes - 1)));
}

int packet_queue_put(struct packet_queue *queue, const uint8_t *packet, uint32_t length, uint32_t peer)
{
    uint64_t bytes = packet_record_bytes(length);
    uint64_t rest = queue->bytes - (queue->write & (queue->bytes - 1));
    uint64_t skip = bytes <= rest ? 0 : rest;
    uint64_t end = queue->write + skip + bytes;
    if (ur_unlikely(end - queue->tail_seen > queue->bytes)) {
        queue->tail_seen = __atomic_load_n(&queue->tail, __ATOMIC_ACQUIRE);
        if (end - queue->tail_seen > queue->bytes)
            return -ENOBUFS;
    }
    if (ur_unlikely(skip))
        record_at(queue, queue->write)->length = PACKET_END;
    struct packet_record *record = record_at(queue, queue->write + skip);
    record->length = length;
    record->peer = peer;
    memcpy(packet_of(record), packet, length);
    queue->write = end;
    return 0;
}

struct packet_record *packet_queue_at(struct packet_queue *queue, uint64_t *position)
{
    if (ur_unlikely(*position == queue->head_seen)) {
        queue->head_seen = __atomic_load_n(&queue->head, __ATOMIC_ACQUIRE);
        if (*position == queue->head_seen)
            return NULL;
    }
    struct packet_record *record = record_at(queue, *position);
    if (ur_unlikely(record->length == PACKET_END)) {
        /* A packet follows: both are published together. */
        *position += queue->bytes - (*position & (queue->bytes - 1));
        record = record_at(queue, *position);
    }
    *position += packet_record_bytes(record->length);
    return record;
}
