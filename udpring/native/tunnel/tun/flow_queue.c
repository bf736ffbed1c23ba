#include "flow_queue.h"

#include <netinet/in.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "ecn.h"
#include "segment.h"

#define NONE UINT16_MAX
#define STRIDE ((size_t)FLOW_ROOM_BEFORE + FLOW_BYTES + FLOW_ROOM_BEHIND)

int flow_queue_open(struct flow_queue **opened)
{
    *opened = NULL;
    struct flow_queue *queue = calloc(1, sizeof(*queue));
    if (!queue)
        return -ENOMEM;
    void *memory = mmap(NULL, FLOW_PACKETS * STRIDE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        free(queue);
        return -ENOMEM;
    }
    queue->memory = memory;
    madvise(memory, FLOW_PACKETS * STRIDE, MADV_DONTFORK);   /* a child does not need the packets */
    for (uint32_t i = 0; i < FLOW_PACKETS; i++) {
        queue->packet[i].packet = queue->memory + i * STRIDE + FLOW_ROOM_BEFORE;
        queue->spare[queue->spare_count++] = (uint16_t)(FLOW_PACKETS - 1 - i);
    }
    for (uint32_t i = 0; i < UR_ARRAY_LENGTH(queue->flow); i++)
        queue->flow[i].first = NONE;
    for (uint32_t way = 0; way < FLOW_WAYS; way++)
        queue->fresh[way].first = queue->old[way].first = NONE;
    if (getrandom(&queue->seed, sizeof(queue->seed), 0) != (ssize_t)sizeof(queue->seed)) {
        int code = -errno;
        flow_queue_close(queue);
        return code;
    }
    *opened = queue;
    return 0;
}

void flow_queue_close(struct flow_queue *queue)
{
    if (!queue)
        return;
    munmap(queue->memory, FLOW_PACKETS * STRIDE);
    free(queue);
}

static uint64_t mixed(uint64_t hash, const uint8_t *bytes, size_t length)
{
    uint64_t word = 0;
    memcpy(&word, bytes, length);
    hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
    return hash ^ hash >> 32;
}

uint32_t flow_queue_number(const struct flow_queue *queue, const uint8_t *packet, uint32_t length)
{
    uint64_t hash = queue->seed;
    uint8_t protocol;
    uint32_t transport;
    bool whole = true;
    if (packet[0] >> 4 == 6 && length >= 40) {
        for (unsigned at = 8; at < 40; at += 8)
            hash = mixed(hash, packet + at, 8);
        protocol = packet[6];
        transport = 40;
    } else if (length >= 20) {
        hash = mixed(hash, packet + 12, 8);
        protocol = packet[9];
        transport = (packet[0] & 15u) * 4u;
        whole = !((packet[6] & 0x3f) | packet[7]);
    } else {
        return 0;
    }
    if (whole && (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) && length >= transport + 4) {
        hash = mixed(hash, &protocol, 1);
        hash = mixed(hash, packet + transport, 4);
    }
    return (uint32_t)(hash >> 32) % FLOW_QUEUES;
}

static void list_append(struct flow_queue *queue, struct flow_list *list, uint16_t index)
{
    queue->flow[index].next = NONE;
    if (list->first == NONE)
        list->first = index;
    else
        queue->flow[list->last].next = index;
    list->last = index;
}

static void list_shift(struct flow_queue *queue, struct flow_list *list)
{
    list->first = queue->flow[list->first].next;
}

uint16_t flow_queue_put(struct flow_queue *queue, uint32_t way, const struct vnet_header *vnet, uint32_t length, uint64_t now)
{
    uint16_t index = queue->spare[--queue->spare_count];
    struct flow_packet *packet = &queue->packet[index];
    packet->length = length;
    packet->vnet = *vnet;
    packet->since_ns = now;
    packet->next = NONE;
    uint16_t number = (uint16_t)(way * FLOW_QUEUES + flow_queue_number(queue, packet->packet, length));
    struct flow *flow = &queue->flow[number];
    if (flow->first == NONE)
        flow->first = index;
    else
        queue->packet[flow->last].next = index;
    flow->last = index;
    flow->bytes += length;
    queue->bytes += length;
    queue->count++;
    queue->waiting[way]++;
    if (length > queue->longest)
        queue->longest = length;
    if (!flow->listed) {
        flow->listed = true;
        flow->deficit = FLOW_QUANTUM;
        list_append(queue, &queue->fresh[way], number);
    }
    return number;
}

/* The head of the flow, NULL: it is empty. */
static struct flow_packet *shift(struct flow_queue *queue, struct flow *flow, uint64_t now, bool *may_drop)
{
    if (flow->first == NONE) {
        codel_empty(&flow->codel);
        *may_drop = false;
        return NULL;
    }
    struct flow_packet *packet = &queue->packet[flow->first];
    flow->first = packet->next;
    *may_drop = codel_may_drop(&flow->codel, now, now - packet->since_ns, flow->bytes <= queue->longest);
    flow->bytes -= packet->length;
    queue->bytes -= packet->length;
    queue->count--;
    queue->waiting[(flow - queue->flow) / FLOW_QUEUES]--;
    return packet;
}

/* How many packets a super-packet holds. It is refused later if its headers are wrong, and counts as one then. */
static uint32_t packets_in(const struct flow_packet *packet)
{
    struct segmenter segmenter;
    return segment_open(&segmenter, &packet->vnet, packet->packet, packet->length) < 0 ? 1 : segment_count(&segmenter);
}

/* Marks it, which is as good as a drop. false: it was dropped. */
static bool marked(struct flow_queue *queue, struct flow_packet *packet)
{
    if (ecn_mark(packet->packet)) {
        queue->marked++;
        return true;
    }
    queue->dropped += packets_in(packet);
    flow_queue_release(queue, packet);
    return false;
}

/* RFC 8289 5.6, with marks in place of drops where the sender supports them (RFC 8290 4.2). */
static struct flow_packet *flow_take(struct flow_queue *queue, struct flow *flow, uint64_t now)
{
    bool may_drop;
    struct flow_packet *packet = shift(queue, flow, now, &may_drop);
    if (ur_unlikely(flow->codel.dropping)) {
        while (packet && codel_goes_on(&flow->codel, now, may_drop)) {
            bool kept = marked(queue, packet);
            if (!kept)
                packet = shift(queue, flow, now, &may_drop);
            if (kept || may_drop)
                codel_dropped(&flow->codel);
            if (kept)
                break;
        }
    } else if (ur_unlikely(packet && codel_begins(&flow->codel, now, may_drop))) {
        if (!marked(queue, packet))
            packet = shift(queue, flow, now, &may_drop);
    }
    return packet;
}

static struct flow_packet *way_take(struct flow_queue *queue, uint32_t way, uint64_t now)
{
    for (;;) {
        bool fresh = queue->fresh[way].first != NONE;
        struct flow_list *list = fresh ? &queue->fresh[way] : &queue->old[way];
        uint16_t number = list->first;
        if (number == NONE)
            return NULL;
        struct flow *flow = &queue->flow[number];
        struct flow_packet *packet = NULL;
        if (flow->deficit > 0)
            packet = flow_take(queue, flow, now);
        if (packet) {
            flow->deficit -= (int32_t)packet->length;
            return packet;
        }
        list_shift(queue, list);
        if (flow->deficit <= 0)
            flow->deficit += FLOW_QUANTUM;
        else if (!fresh || queue->old[way].first == NONE) {
            flow->listed = false;   /* an empty new flow waits for a turn of the old ones, so that it cannot always be first */
            continue;
        }
        list_append(queue, &queue->old[way], number);
    }
}

struct flow_packet *flow_queue_take(struct flow_queue *queue, uint32_t ways, uint64_t now)
{
    struct flow_packet *packet = NULL;
    for (uint32_t i = 0; i < FLOW_WAYS && !packet; i++) {
        uint32_t way = queue->turn++ % FLOW_WAYS;
        if (ways & 1u << way)   /* also where nothing waits: then the flows that have ended leave the lists */
            packet = way_take(queue, way, now);
    }
    return packet;
}

void flow_queue_release(struct flow_queue *queue, const struct flow_packet *packet)
{
    queue->spare[queue->spare_count++] = (uint16_t)(packet - queue->packet);
}
