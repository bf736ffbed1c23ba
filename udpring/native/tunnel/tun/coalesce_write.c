#include "coalesce_write.h"

#include "checksum.h"

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* Sets the length fields of the first packet's headers for an IP packet of `length` bytes, and the checksum of an IPv4 header. */
static void set_lengths(const struct coalesce_flow *flow, uint32_t length)
{
    uint8_t *packet = flow->packet;
    if (flow->v6) {
        put16(packet + 4, length - 40);
    } else {
        put16(packet + 2, length);
        checksum_ipv4_header(packet, 20);
    }
    if (flow->protocol == IPPROTO_UDP)
        put16(packet + flow->transport + UDP_LENGTH, length - flow->transport);
}

static uint32_t checksum_offset(const struct coalesce_flow *flow)
{
    return flow->protocol == IPPROTO_TCP ? TCP_CHECKSUM : UDP_CHECKSUM;
}

static uint64_t pseudo_header(const struct coalesce_flow *flow, uint32_t length)
{
    uint32_t bytes = length - flow->transport;
    return flow->v6 ? checksum_pseudo(flow->packet + 8, true, flow->protocol, bytes)
                    : checksum_pseudo(flow->packet + 12, false, flow->protocol, bytes);
}

/* The header of the super-packet: lengths of the whole, and the pseudo-header's sum where the checksum goes. */
static void fill(const struct coalesce_flow *flow, struct vnet_header *vnet)
{
    set_lengths(flow, flow->length);
    *vnet = (struct vnet_header){
        .flags = VNET_NEEDS_CSUM,
        .gso_type = flow->protocol == IPPROTO_UDP ? VNET_GSO_UDP_L4 : flow->v6 ? VNET_GSO_TCPV6 : VNET_GSO_TCPV4,
        .hdr_len = (uint16_t)flow->header,
        .gso_size = (uint16_t)flow->segment,
        .csum_start = (uint16_t)flow->transport,
        .csum_offset = (uint16_t)checksum_offset(flow),
    };
    uint16_t folded = checksum_fold(pseudo_header(flow, flow->length));
    memcpy(flow->packet + flow->transport + vnet->csum_offset, &folded, sizeof(folded));
}

/* Restores the first packet as it was before fill() and join(). It had no PSH, since no packet joins behind PSH. Its checksums
 * were right, with zero written the way it is computed here (coalesce.c, checksums_hold). */
static void restore_first(const struct coalesce_flow *flow)
{
    uint32_t length = (uint32_t)flow->parts[1].iov_len;
    uint8_t *transport = flow->packet + flow->transport;
    uint16_t sum = 0;
    set_lengths(flow, length);
    if (flow->protocol == IPPROTO_TCP)
        transport[TCP_FLAGS] &= (uint8_t)~TCP_PSH;
    memcpy(transport + checksum_offset(flow), &sum, sizeof(sum));
    sum = (uint16_t)~checksum_fold(checksum_add(pseudo_header(flow, length), transport, length - flow->transport));
    if (flow->protocol == IPPROTO_UDP && !sum)
        sum = 0xffff;
    memcpy(transport + checksum_offset(flow), &sum, sizeof(sum));
}

void coalesce_write_packet(struct coalescer *coalescer, uint8_t *packet, uint32_t length)
{
    struct vnet_header vnet = {0};
    struct iovec parts[2] = {[1] = {.iov_base = packet, .iov_len = length}};
    coalescer->refused += tun_write(coalescer->tun, &vnet, parts, 2) < 0;
}

/* All but the first lie as they came, their headers before their payloads. */
static void write_pieces(struct coalescer *coalescer, const struct coalesce_flow *flow)
{
    restore_first(flow);
    coalesce_write_packet(coalescer, flow->packet, (uint32_t)flow->parts[1].iov_len);
    for (int i = 2; i < flow->count; i++)
        coalesce_write_packet(coalescer, (uint8_t *)flow->parts[i].iov_base - flow->header,
                              flow->header + (uint32_t)flow->parts[i].iov_len);
}

static void learn(struct coalesce_refusals *refusals, uint32_t kind, bool with_short)
{
    uint8_t *in_a_row = &refusals->in_a_row[kind][with_short];
    if (*in_a_row < COALESCE_REFUSALS && ++*in_a_row == COALESCE_REFUSALS)
        refusals->unreported[with_short] = true;
}

void coalesce_write_flow(struct coalescer *coalescer, struct coalesce_flow *flow)
{
    if (flow->count == 2) {
        coalesce_write_packet(coalescer, flow->packet, flow->length);
        return;
    }
    struct vnet_header vnet;
    struct coalesce_refusals *refusals = &coalescer->refusals;
    uint32_t kind = coalesce_kind(flow->protocol, flow->v6);
    bool with_short = flow->parts[flow->count - 1].iov_len < flow->segment;
    fill(flow, &vnet);
    int result = tun_write(coalescer->tun, &vnet, flow->parts, flow->count);
    if (ur_likely(result == 0)) {
        refusals->in_a_row[kind][with_short] = 0;
        coalescer->super_packets++;
    } else if (result == -EINVAL || result == -ENOMEM || result == -ENOBUFS) {
        /* No memory for so large a packet says nothing of the next one. */
        refusals->count++;
        if (result == -EINVAL)
            learn(refusals, kind, with_short);
        write_pieces(coalescer, flow);
    } else {
        coalescer->refused += (uint64_t)flow->count - 1;   /* the interface is down, or gone: it takes no piece either */
    }
}
