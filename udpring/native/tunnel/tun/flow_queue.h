/* Packets of the TUN device in queues by flow, with CoDel in each (RFC 8290).
 *
 * The device has one queue, in which every packet waits behind a bulk transfer. The worker therefore reads ahead and sorts:
 * flows that have just begun to send come first, the others take turns by bytes. A packet goes through here only if it is a
 * super-packet, or if something waits already. Packets of a flow stay in order.
 *
 * Where CoDel finds a standing queue, it marks packets of senders that support ECN and drops those of others. While the queue
 * is full, the worker does not read, so the device's own queue holds the rest.
 *
 * Owner: the worker. Thread: the worker. Freed by flow_queue_close(). */
#ifndef UDPRING_TUNNEL_TUN_FLOW_QUEUE_H
#define UDPRING_TUNNEL_TUN_FLOW_QUEUE_H
#include "codel.h"
#include "vnet.h"

enum {
    FLOW_WAYS = 2,              /* sockets that packets leave by. One may be full while the other is not */
    FLOW_QUEUES = 256,          /* for each way. Flows share one where their hashes are equal */
    FLOW_PACKETS = 64,          /* packets and super-packets, in all queues together */
    FLOW_QUANTUM = 16384,       /* bytes that a flow may send before the next flow has its turn */
    FLOW_ROOM_BEFORE = 4096,    /* before a packet, for its vnet and link header */
    FLOW_BYTES = 65536,         /* of a packet, */
    FLOW_ROOM_BEHIND = 4096,    /* and room for its padding */
};

struct flow_packet {
    uint8_t *packet;
    uint32_t length;
    struct vnet_header vnet;
    uint16_t next;              /* in its flow */
    uint64_t since_ns;          /* when it was read */
};

struct flow {
    uint16_t first, last;       /* packets */
    uint16_t next;              /* in its list of flows */
    bool listed;
    int32_t deficit;            /* bytes that it may still send in this turn */
    uint32_t bytes;
    struct codel codel;
};

struct flow_list {
    uint16_t first, last;
};

struct flow_queue {
    uint8_t *memory;
    uint64_t seed;              /* of the hash: no sender can choose whose queue it shares */
    uint32_t count, bytes;      /* queued */
    uint32_t waiting[FLOW_WAYS];   /* of count, by way */
    uint32_t turn;              /* the way that is looked at first */
    uint32_t longest;           /* packet so far */
    uint64_t dropped, marked;   /* by CoDel: packets, also those of a super-packet, and marked super-packets */
    struct flow_list fresh[FLOW_WAYS], old[FLOW_WAYS];   /* RFC 8290: new and old flows */
    uint32_t spare_count;
    uint16_t spare[FLOW_PACKETS];  /* a stack: the packet used last is the warmest */
    struct flow_packet packet[FLOW_PACKETS];
    struct flow flow[FLOW_WAYS * FLOW_QUEUES];
};

/* 0, -ENOMEM, or the error of getrandom(2). */
int flow_queue_open(struct flow_queue **opened) UR_MUST_CHECK;
void flow_queue_close(struct flow_queue *queue);
/* Where the next packet is read to. NULL: the queue is full. The packet may be used there without being put. */
static inline uint8_t *flow_queue_room(const struct flow_queue *queue)
{
    return ur_likely(queue->spare_count) ? queue->packet[queue->spare[queue->spare_count - 1]].packet : NULL;
}
/* The flow of an IP packet, below FLOW_QUEUES: by addresses, protocol and ports. Packets without visible ports, such as fragments
 * and ICMP, are of the flow of their addresses. */
uint32_t flow_queue_number(const struct flow_queue *queue, const uint8_t *packet, uint32_t length);
/* Puts the IP packet that was read there. Returns the number of its queue: way * FLOW_QUEUES + flow. */
uint16_t flow_queue_put(struct flow_queue *queue, uint32_t way, const struct vnet_header *vnet, uint32_t length, uint64_t now);
/* The next packet to send by one of these ways (bits), NULL: none is left. The caller releases it. */
struct flow_packet *flow_queue_take(struct flow_queue *queue, uint32_t ways, uint64_t now);
void flow_queue_release(struct flow_queue *queue, const struct flow_packet *packet);
#endif
