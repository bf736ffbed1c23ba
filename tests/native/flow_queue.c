/* The queues by flow, by themselves. */
#include "tunnel/tun/flow_queue.h"

#include "abi.h"

int32_t udpring_flow_put(struct flow_queue *queue, uint32_t way, const uint8_t *packet, uint32_t length, uint64_t now_ns)
{
    struct vnet_header vnet = {.gso_size = (uint16_t)length};
    uint8_t *room = flow_queue_room(queue);
    if (!room)
        return -ENOBUFS;
    memcpy(room, packet, length);
    return flow_queue_put(queue, way, &vnet, length, now_ns);
}

int32_t udpring_flow_take(struct flow_queue *queue, uint32_t ways, uint64_t now_ns, uint8_t *packet)
{
    const struct flow_packet *taken = flow_queue_take(queue, ways, now_ns);
    if (!taken)
        return 0;
    if (taken->vnet.gso_size != taken->length)
        return -EINVAL;   /* another packet's header */
    memcpy(packet, taken->packet, taken->length);
    flow_queue_release(queue, taken);
    return (int32_t)taken->length;
}

struct flow_queue *udpring_flow_queue_new(void)
{
    struct flow_queue *queue;
    return flow_queue_open(&queue) == 0 ? queue : NULL;
}

struct udpring_flow_state udpring_flow_state(const struct flow_queue *queue)
{
    return (struct udpring_flow_state){.dropped = queue->dropped, .marked = queue->marked, .packets = queue->count, .bytes = queue->bytes};
}
