/* A bounded queue of IP packets in shared memory, with one producer thread and one consumer thread.
 *
 * Each packet lies in one piece behind a record of 16 bytes. The bytes behind it, up to the next multiple of 16, are free: the
 * consumer may pad the packet there and encrypt it in place. A record that does not fit before the end of the memory begins at
 * its start. A record without a packet fills the end.
 *
 * The producer's packets are visible after packet_queue_publish(). The consumer's room is visible after packet_queue_release().
 *
 * Owner: the ports (ports.h). Freed by packet_queue_free(). */
#ifndef UDPRING_TUNNEL_PACKETS_QUEUE_H
#define UDPRING_TUNNEL_PACKETS_QUEUE_H
#include "../../base.h"

#define PACKET_RECORD 16u             /* bytes before each packet. All positions are multiples of it */
#define PACKET_END 0xffffffffu        /* length of the record that fills the end of the memory */
#define PACKET_MAX 65535u             /* bytes of a packet */
#define PACKET_CACHE_LINE 64

/* The producer writes it before it is published, and then the consumer reads it. */
struct packet_record {
    uint32_t length;
    uint32_t peer;              /* the sender. Unused for packets from the program */
    uint8_t unused[8];
};

struct packet_queue {
    uint8_t *memory;
    uint64_t bytes;             /* a power of two */
    /* Positions only grow. Those of the producer: */
    uint64_t head __attribute__((aligned(PACKET_CACHE_LINE)));   /* atomic: end of the published records */
    uint64_t write;             /* end of the records put */
    uint64_t tail_seen;
    /* Those of the consumer: */
    uint64_t tail __attribute__((aligned(PACKET_CACHE_LINE)));   /* atomic: end of the released records */
    uint64_t read;              /* end of the records taken */
    uint64_t head_seen;
};

/* The bytes of the record and its packet. */
static inline uint64_t packet_record_bytes(uint32_t length)
{
    return PACKET_RECORD + (((uint64_t)length + PACKET_RECORD - 1) & ~(uint64_t)(PACKET_RECORD - 1));
}

/* NULL: no memory. bytes: a power of two, at least four times the longest record. */
struct packet_queue *packet_queue_new(uint64_t bytes);
void packet_queue_free(struct packet_queue *queue);

/* Bytes of published records that are not released. Any thread. */
static inline uint64_t packet_queue_depth(const struct packet_queue *queue)
{
    uint64_t tail = __atomic_load_n(&queue->tail, __ATOMIC_ACQUIRE);   /* first: it never passes the head */
    return __atomic_load_n(&queue->head, __ATOMIC_ACQUIRE) - tail;
}

/* ---- the producer ---- */

/* Copies the packet into the queue. 0, or -ENOBUFS: there is no room now. */
int packet_queue_put(struct packet_queue *queue, const uint8_t *packet, uint32_t length, uint32_t peer) UR_MUST_CHECK;

static inline void packet_queue_publish(struct packet_queue *queue)
{
    __atomic_store_n(&queue->head, queue->write, __ATOMIC_RELEASE);
}

/* ---- the consumer ---- */

/* The record at *position, which is moved behind it. NULL: nothing is left. The record stays until it is released. */
struct packet_record *packet_queue_at(struct packet_queue *queue, uint64_t *position);

static inline struct packet_record *packet_queue_take(struct packet_queue *queue)
{
    return packet_queue_at(queue, &queue->read);
}

static inline uint8_t *packet_of(struct packet_record *record)
{
    return (uint8_t *)(record + 1);
}

/* All that was taken makes room. */
static inline void packet_queue_release(struct packet_queue *queue)
{
    __atomic_store_n(&queue->tail, queue->read, __ATOMIC_RELEASE);
}

/* Whether the half of it is free, as the consumer sees it. */
static inline bool packet_queue_half_free(const struct packet_queue *queue)
{
    return __atomic_load_n(&queue->head, __ATOMIC_ACQUIRE) - queue->tail <= queue->bytes / 2;
}

_Static_assert(sizeof(struct packet_record) == PACKET_RECORD, "records and packets are aligned alike");
#endif
