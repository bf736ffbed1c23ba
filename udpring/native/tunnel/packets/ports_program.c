/* The program's side of the ports: one call moves a batch.
 *   out: each packet is copied into the queue of the worker that its flow belongs to. The first one without room ends the call
 *   in:  the contents of the queues are copied into one piece of memory that the program owns, with a column for each fact */
#include <netinet/in.h>
#include <stdlib.h>

#include "ports.h"

/* ---- out ---- */

/* By the two addresses, and the ports of TCP, as the kernel chooses queues of a TUN device (tun_steer.c). Not fragments' ports,
 * which only the first one has. */
static uint32_t flow_hash(const uint8_t *packet, uint32_t length)
{
    uint32_t hash = 0, word, first = 12, last = 20, ports = 20;
    bool tcp = false;
    if (length >= 20 && packet[0] >> 4 == 4) {
        ports = (packet[0] & 15u) * 4u;
        tcp = packet[9] == IPPROTO_TCP && !((packet[6] & 0x3f) | packet[7]);
    } else if (length >= 40 && packet[0] >> 4 == 6) {
        first = 8;
        last = ports = 40;
        tcp = packet[6] == IPPROTO_TCP;
    } else {
        return 0;   /* a worker counts and drops it */
    }
    for (uint32_t at = first; at < last; at += sizeof(word)) {
        memcpy(&word, packet + at, sizeof(word));
        hash = (hash ^ word) * 2654435761u;
    }
    if (tcp && length >= ports + sizeof(word)) {
        memcpy(&word, packet + ports, sizeof(word));
        hash = (hash ^ word) * 2654435761u;
    }
    return hash ^ hash >> 16;
}

static uint32_t length_of(const struct udpring_packets_out *out, uint32_t number)
{
    if (out->lengths)
        return out->lengths[number];
    uint64_t rest = out->bytes - (uint64_t)number * out->length;
    return rest < out->length ? (uint32_t)rest : out->length;
}

/* 0, or -EINVAL: packet number out->taken is too long for any, or lies outside of the data. */
static int check_columns(struct udpring_packets_out *out)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < out->count; i++) {
        uint32_t length = length_of(out, i);
        if (out->offsets)
            at = out->offsets[i];
        if (length > PACKET_MAX || at + length > out->bytes) {
            out->taken = i;
            return -EINVAL;
        }
        at += length;
    }
    return 0;
}

/* The first port whose queue was full, or NULL: all were put. */
static struct packet_port *put_some(struct packet_ports *ports, struct udpring_packets_out *out)
{
    struct packet_port *full = NULL;
    for (; out->taken < out->count && !full; out->taken += !full) {
        uint64_t at = out->offsets ? out->offsets[out->taken] : out->next;
        const uint8_t *packet = out->data + at;
        uint32_t length = length_of(out, out->taken);
        struct packet_port *port = &ports->port[ports->count > 1 ? flow_hash(packet, length) % ports->count : 0];
        if (packet_queue_put(port->outward, packet, length, UDPRING_PEER_NONE) < 0)
            full = port;
        else
            out->next = at + length;
    }
    for (uint32_t number = 0; number < ports->count; number++) {
        struct packet_port *port = &ports->port[number];
        if (port->outward->write == port->outward->head)
            continue;
        packet_queue_publish(port->outward);
        packet_wake_raise(&port->sent);
    }
    return full;
}

int32_t packet_ports_send(struct packet_ports *ports, struct udpring_packets_out *out, int32_t wait)
{
    int result = out->taken ? 0 : check_columns(out);
    if (result < 0)
        return result;
    struct packet_port *full = put_some(ports, out), *expected = NULL;
    /* Once more after each expectation: room may have come just before it. Another queue may be the full one then. */
    for (uint32_t i = 0; full && wait && i < ports->count && full != expected; i++) {
        expected = full;
        packet_wake_expect(&expected->room);
        full = put_some(ports, out);
    }
    if (full && wait && full != expected)
        packet_wake_raise(&expected->room);   /* its owner's turn never came: the program tries again at once */
    return 0;
}

/* ---- in ---- */

/* One port's share of a batch, from its present contents. */
struct share {
    uint32_t count;
    uint64_t bytes;             /* with the records */
};

static struct share share_of(struct packet_queue *queue, uint32_t max)
{
    struct share share = {0};
    uint64_t position = queue->read;
    struct packet_record *record;
    while (share.count < max && (record = packet_queue_at(queue, &position))) {
        share.count++;
        share.bytes += packet_record_bytes(record->length);
    }
    return share;
}

/* Moves a share to the end of the batch. Neighbours are copied together, their records with them. */
static void move(struct packet_queue *queue, const struct share *share, struct udpring_packets *batch)
{
    uint8_t *piece = NULL, *end = NULL, *to = batch->data + batch->bytes;
    for (uint32_t i = 0; i < share->count; i++) {
        struct packet_record *record = packet_queue_take(queue);
        if (!piece)
            piece = (uint8_t *)record;
        else if ((uint8_t *)record != end) {   /* the end of the memory lies between them */
            memcpy(to, piece, (size_t)(end - piece));
            to += end - piece;
            piece = (uint8_t *)record;
        }
        end = (uint8_t *)record + packet_record_bytes(record->length);
        batch->offsets[batch->count] = (uint32_t)(to + (packet_of(record) - piece) - batch->data);
        batch->lengths[batch->count] = record->length;
        batch->peers[batch->count++] = record->peer;
    }
    memcpy(to, piece, (size_t)(end - piece));
    batch->bytes += (uint32_t)share->bytes;
    packet_queue_release(queue);
}

/* For so many packets, and so many bytes of them. */
static struct udpring_packets *batch_new(uint32_t count, uint64_t bytes)
{
    struct udpring_packets *batch = malloc(sizeof(*batch) + (size_t)count * 3 * sizeof(uint32_t) + bytes);
    if (!batch)
        return NULL;
    uint32_t *columns = (uint32_t *)(batch + 1);
    *batch = (struct udpring_packets){.offsets = columns, .lengths = columns + count, .peers = columns + 2 * (size_t)count,
                                      .data = (uint8_t *)(columns + 3 * (size_t)count)};
    return batch;
}

static uint32_t look(struct packet_ports *ports, uint32_t max, struct share *shares, uint64_t *bytes)
{
    uint32_t count = 0;
    *bytes = 0;
    for (uint32_t i = 0; i < ports->count; i++) {
        uint32_t number = (ports->next + i) % ports->count;
        /* Never more than a column of offsets can name. */
        shares[number] = *bytes > UINT32_MAX / 2 ? (struct share){0} : share_of(ports->port[number].inward, max - count);
        count += shares[number].count;
        *bytes += shares[number].bytes;
    }
    return count;
}

int32_t packet_ports_receive(struct packet_ports *ports, uint32_t max, int32_t wait, struct udpring_packets **batch)
{
    struct share shares[UDPRING_WORKERS_MAX];
    uint64_t bytes;
    *batch = NULL;
    uint32_t count = look(ports, max, shares, &bytes);
    if (!count && wait) {
        packet_wake_expect(&ports->received);
        count = look(ports, max, shares, &bytes);
        if (count)
            packet_wake_forget(&ports->received);
    }
    if (!count)
        return 0;
    if (!(*batch = batch_new(count, bytes)))
        return -ENOMEM;   /* the packets stay */
    for (uint32_t i = 0; i < ports->count; i++) {
        uint32_t number = (ports->next + i) % ports->count;
        if (shares[number].count)
            move(ports->port[number].inward, &shares[number], *batch);
    }
    ports->next = (ports->next + 1) % ports->count;
    return 0;
}

void udpring_packets_free(struct udpring_packets *batch, uint8_t *data)
{
    free(batch);
}
