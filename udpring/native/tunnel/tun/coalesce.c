#include "coalesce.h"

#include "checksum.h"
#include "coalesce_write.h"

static uint32_t get16(const uint8_t *at)
{
    return (uint32_t)at[0] << 8 | at[1];
}

static uint32_t get32(const uint8_t *at)
{
    return get16(at) << 16 | get16(at + 2);
}

/* The facts about one packet that decide which flow it may join. */
struct parsed {
    uint8_t *packet;
    uint32_t length, header, transport, payload, hash;
    uint8_t protocol;
    bool v6, flow, mergeable;   /* flow: has ports, may follow others of its flow. mergeable: may be part of a super-packet */
};

static void parse_transport(struct parsed *p)
{
    const uint8_t *at = p->packet + p->transport;
    uint32_t room = p->length - p->transport;
    if (p->protocol == IPPROTO_TCP && room >= TCP_HEADER_MIN) {
        uint32_t bytes = (at[TCP_OFFSET] >> 4) * 4u;
        if (bytes < TCP_HEADER_MIN || bytes > room)
            return;
        p->header = p->transport + bytes;
        p->flow = true;
        /* Plain data segments alone: no SYN, FIN, RST, URG, ECE or CWR, no reserved bit. */
        p->mergeable = (at[TCP_OFFSET] & 15) == 0 && (at[TCP_FLAGS] & ~TCP_PSH) == TCP_ACK && room > bytes;
    } else if (p->protocol == IPPROTO_UDP && room >= UDP_HEADER) {
        p->header = p->transport + UDP_HEADER;
        p->flow = true;
        /* Without a checksum (RFC 768) there is nothing to verify, and segmentation would make one. */
        p->mergeable = get16(at + UDP_LENGTH) == room && room > UDP_HEADER && get16(at + UDP_CHECKSUM) != 0;
    }
    p->payload = p->length - p->header;
    /* The ports: the same place in both. Equal hashes are compared in full. */
    p->hash = get32(at) * 2654435761u ^ p->protocol ^ get32(p->packet + (p->v6 ? 20 : 12)) * 40503u ^ get32(p->packet + (p->v6 ? 36 : 16));
}

static struct parsed parse(uint8_t *packet, uint32_t length)
{
    struct parsed p = {.packet = packet, .length = length, .header = length, .v6 = packet[0] >> 4 == 6};
    if (p.v6) {
        p.protocol = packet[6];
        p.transport = 40;           /* extension headers: neither TCP nor UDP by this field */
    } else {
        p.protocol = packet[9];
        p.transport = (packet[0] & 15u) * 4u;
        /* Options are not repeated by every segmentation. A fragment has no transport header to go by. */
        if (p.transport != 20 || (get16(packet + 6) & 0x3fff))
            return p;
    }
    if (length > p.transport + UDP_HEADER)
        parse_transport(&p);
    return p;
}

/* Whether the checksums of the transport header and of an IPv4 header are right, and written as segmentation writes them.
 * One's complement has two zeros, both right. Only UDP writes the one with all bits set. */
static bool checksums_hold(const struct parsed *p)
{
    uint32_t bytes = p->length - p->transport;
    if ((p->protocol == IPPROTO_TCP && get16(p->packet + p->transport + TCP_CHECKSUM) == 0xffff) ||
        (!p->v6 && get16(p->packet + 10) == 0xffff))
        return false;
    uint64_t sum = p->v6 ? checksum_pseudo(p->packet + 8, true, p->protocol, bytes)
                         : checksum_pseudo(p->packet + 12, false, p->protocol, bytes);
    if (checksum_fold(checksum_add(sum, p->packet + p->transport, bytes)) != 0xffff)
        return false;
    return p->v6 || checksum_fold(checksum_few(p->packet, 5)) == 0xffff;
}

static bool same_flow(const struct coalesce_flow *flow, const struct parsed *p)
{
    if (flow->hash != p->hash || flow->protocol != p->protocol || flow->v6 != p->v6)
        return false;
    return (p->v6 ? memcmp(flow->packet + 8, p->packet + 8, 32) : memcmp(flow->packet + 12, p->packet + 12, 8)) == 0 &&
           memcmp(flow->packet + flow->transport, p->packet + p->transport, 4) == 0;
}

/* Whether the fields of the IP header match that all segments share, and an IPv4 identification counts up by one. */
static bool same_ip(const struct coalesce_flow *flow, const struct parsed *p)
{
    const uint8_t *first = flow->packet, *next = p->packet;
    if (p->v6)
        return memcmp(first, next, 4) == 0 && first[7] == next[7];   /* version, class, flow label, hop limit */
    return first[1] == next[1] && first[6] == next[6] && first[8] == next[8] &&
           get16(next + 4) == ((get16(first + 4) + (uint32_t)(flow->count - 1)) & 0xffff);
}

static bool same_tcp(const struct coalesce_flow *flow, const struct parsed *p)
{
    const uint8_t *first = flow->packet + flow->transport, *next = p->packet + p->transport;
    uint32_t bytes = flow->header - flow->transport;
    return p->header - p->transport == bytes && get32(next + TCP_SEQUENCE) == flow->next_sequence &&
           memcmp(first + TCP_ACKNOWLEDGEMENT, next + TCP_ACKNOWLEDGEMENT, 5) == 0 &&   /* and the data offset */
           memcmp(first + TCP_WINDOW, next + TCP_WINDOW, 2) == 0 &&
           memcmp(first + TCP_URGENT, next + TCP_URGENT, 2) == 0 &&
           memcmp(first + TCP_HEADER_MIN, next + TCP_HEADER_MIN, bytes - TCP_HEADER_MIN) == 0;
}

/* A shorter packet may be the last of a super-packet, where the device takes such. */
static bool length_joins(const struct coalescer *coalescer, const struct coalesce_flow *flow, uint32_t payload)
{
    return payload == flow->segment ||
           (payload < flow->segment && coalesce_taken(&coalescer->refusals, flow->protocol, flow->v6, true));
}

static bool joins(const struct coalescer *coalescer, const struct coalesce_flow *flow, const struct parsed *p)
{
    return p->mergeable && !flow->ended && length_joins(coalescer, flow, p->payload) && flow->count <= COALESCE_PIECES &&
           flow->length + p->payload <= COALESCE_BYTES && p->header == flow->header && same_ip(flow, p) &&
           (p->protocol == IPPROTO_UDP || same_tcp(flow, p)) && checksums_hold(p);
}

static void join(struct coalesce_flow *flow, const struct parsed *p)
{
    flow->parts[flow->count++] = (struct iovec){.iov_base = p->packet + p->header, .iov_len = p->payload};
    flow->length += p->payload;
    flow->next_sequence += p->payload;
    bool push = p->protocol == IPPROTO_TCP && p->packet[p->transport + TCP_FLAGS] & TCP_PSH;
    if (push)
        flow->packet[flow->transport + TCP_FLAGS] |= TCP_PSH;   /* segmentation puts it on the last */
    flow->ended = push || p->payload < flow->segment;
}

static void begin(struct coalesce_flow *flow, const struct parsed *p)
{
    flow->packet = p->packet;
    flow->header = p->header;
    flow->transport = p->transport;
    flow->segment = p->payload;
    flow->length = p->length;
    flow->hash = p->hash;
    flow->protocol = p->protocol;
    flow->v6 = p->v6;
    flow->next_sequence = get32(p->packet + p->transport + TCP_SEQUENCE) + p->payload;
    flow->ended = p->protocol == IPPROTO_TCP && p->packet[p->transport + TCP_FLAGS] & TCP_PSH;
    flow->count = 2;
    flow->parts[1] = (struct iovec){.iov_base = p->packet, .iov_len = p->length};
}

static void end_flow(struct coalescer *coalescer, uint32_t index)
{
    coalesce_write_flow(coalescer, &coalescer->flow[index]);
    coalescer->used--;
    if (index != coalescer->used)
        coalescer->flow[index] = coalescer->flow[coalescer->used];
}

/* Ended flows leave holes that the last one fills, so the place does not tell the age. */
static uint32_t oldest(const struct coalescer *coalescer)
{
    uint32_t found = 0;
    for (uint32_t i = 1; i < coalescer->used; i++)
        if (coalescer->flow[i].begun < coalescer->flow[found].begun)
            found = i;
    return found;
}

void coalesce_flush(struct coalescer *coalescer)
{
    for (uint32_t i = 0; i < coalescer->used; i++)
        coalesce_write_flow(coalescer, &coalescer->flow[i]);
    coalescer->used = 0;
}

void coalesce_packet(struct coalescer *coalescer, uint8_t *packet, uint32_t length)
{
    coalescer->packets++;
    if (!coalescer->tun->vnet || !coalescer->tun->offloads) {
        coalesce_write_packet(coalescer, packet, length);
        return;
    }
    struct parsed p = parse(packet, length);
    if (!p.flow) {
        /* A fragment or ICMP may belong to any of them: none may be passed. */
        coalesce_flush(coalescer);
        coalesce_write_packet(coalescer, packet, length);
        return;
    }
    for (uint32_t i = 0; i < coalescer->used; i++) {
        if (!same_flow(&coalescer->flow[i], &p))
            continue;
        if (joins(coalescer, &coalescer->flow[i], &p)) {
            join(&coalescer->flow[i], &p);
            return;
        }
        end_flow(coalescer, i);
        break;
    }
    bool kernel_takes = (p.protocol == IPPROTO_TCP || coalescer->tun->offloads & TUN_OFFLOAD_UDP) &&
                        coalesce_taken(&coalescer->refusals, p.protocol, p.v6, false);
    if (!p.mergeable || !kernel_takes || !checksums_hold(&p)) {
        coalesce_write_packet(coalescer, packet, length);
        return;
    }
    if (coalescer->used == COALESCE_FLOWS)
        end_flow(coalescer, oldest(coalescer));
    struct coalesce_flow *flow = &coalescer->flow[coalescer->used++];
    begin(flow, &p);
    flow->begun = coalescer->packets;
}
