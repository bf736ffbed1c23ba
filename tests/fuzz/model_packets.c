#include "model_packets.h"

#include <netinet/in.h>

#include "tunnel/tun/segment.h"

static uint32_t get16(const uint8_t *at)
{
    return (uint32_t)at[0] << 8 | at[1];
}

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
    put16(at, value >> 16);
    put16(at + 2, value);
}

uint32_t model_sum(uint32_t sum, const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i += 2) {
        sum += i + 1 < length ? get16(bytes + i) : (uint32_t)bytes[i] << 8;
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return sum;
}

uint32_t model_pseudo(const uint8_t *packet, uint8_t protocol, uint32_t length)
{
    uint8_t tail[8] = {0};
    put32(tail, length);
    tail[7] = protocol;
    uint32_t sum = packet[0] >> 4 == 6 ? model_sum(0, packet + 8, 32) : model_sum(0, packet + 12, 8);
    return model_sum(sum, tail, sizeof(tail));
}

void model_fill_checksums(uint8_t *packet, uint32_t length, uint32_t transport, uint8_t protocol)
{
    uint8_t *field = packet + transport + (protocol == IPPROTO_TCP ? 16 : 6);
    put16(field, 0);
    uint32_t sum = model_sum(model_pseudo(packet, protocol, length - transport), packet + transport, length - transport);
    uint32_t value = ~sum & 0xffff;
    put16(field, value || protocol == IPPROTO_TCP ? value : 0xffff);
    if (packet[0] >> 4 == 4) {
        put16(packet + 10, 0);
        put16(packet + 10, ~model_sum(0, packet, (packet[0] & 15u) * 4u));
    }
}

uint32_t model_header_bytes(const struct model_flow *flow)
{
    return (flow->v6 ? 40u : 20u) + (flow->tcp ? 20u + flow->options : 8u);
}

static void write_ip(const struct model_flow *flow, uint32_t length, uint8_t *out)
{
    uint8_t protocol = flow->tcp ? IPPROTO_TCP : IPPROTO_UDP;
    memset(out, 0, flow->v6 ? 40 : 20);
    if (flow->v6) {
        out[0] = (uint8_t)(0x60 | flow->tos >> 4);
        out[1] = (uint8_t)(flow->tos << 4);
        put16(out + 4, length - 40);
        out[6] = protocol;
        out[7] = 64;
        out[8] = out[24] = 0xfd;
        out[9] = flow->net;
        out[23] = flow->source;
        out[25] = flow->net ^ 1;
        out[39] = flow->destination;
        return;
    }
    out[0] = 0x45;
    out[1] = flow->tos;
    put16(out + 2, length);
    put16(out + 4, flow->identification);
    out[6] = flow->dont_fragment ? 0x40 : 0;
    out[8] = 64;
    out[9] = protocol;
    out[12] = flow->net;
    out[15] = flow->source;
    out[16] = flow->net ^ 1;
    out[19] = flow->destination;
}

uint32_t model_packet(struct model_flow *flow, uint32_t payload, uint8_t salt, uint8_t *out)
{
    uint32_t ip = flow->v6 ? 40 : 20, header = model_header_bytes(flow), length = header + payload;
    uint8_t *transport = out + ip;
    write_ip(flow, length, out);
    memset(transport, 0, header - ip);
    put16(transport, 1024u + flow->ports);
    put16(transport + 2, 80);
    if (flow->tcp) {
        put32(transport + 4, flow->sequence);
        transport[12] = (uint8_t)((20 + flow->options) << 2);
        transport[13] = (uint8_t)(0x10 | flow->flags);
        transport[14] = 2;
        for (uint32_t i = 0; i < flow->options; i++)
            transport[20 + i] = i < 2 ? 1 : (uint8_t)(i * 3);
    } else {
        put16(transport + 4, length - ip);
    }
    for (uint32_t i = 0; i < payload; i++)
        out[header + i] = (uint8_t)(i * 7 + salt);
    model_fill_checksums(out, length, ip, flow->tcp ? IPPROTO_TCP : IPPROTO_UDP);
    flow->sequence += payload;
    flow->identification++;
    return length;
}

bool model_flow_of(const uint8_t *packet, uint32_t length, uint8_t flow[MODEL_FLOW_BYTES])
{
    memset(flow, 0, MODEL_FLOW_BYTES);
    bool v6 = packet[0] >> 4 == 6;
    uint32_t ip = v6 ? 40 : 20;
    if (length < ip)
        return false;
    uint8_t protocol = packet[v6 ? 6 : 9];
    bool plain = v6 || ((packet[0] & 15) == 5 && !(get16(packet + 6) & 0x3fff));
    if (!plain || length < ip + 9 || (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP))
        return false;
    flow[0] = packet[0] >> 4;
    flow[1] = protocol;
    memcpy(flow + 2, packet + ip, 4);
    memcpy(flow + 6, packet + (v6 ? 8 : 12), v6 ? 32 : 8);
    return true;
}

/* The offset of a super-packet's payload. 0: the kernel's header contradicts the packet. */
static uint32_t super_header(const struct vnet_header *vnet, const uint8_t *packet, uint32_t length, uint8_t *protocol)
{
    uint8_t type = vnet->gso_type & 0x7f, version = length ? packet[0] >> 4 : 0;
    uint32_t start = vnet->csum_start, least = type == VNET_GSO_UDP_L4 ? 8 : 20;
    bool known = (type == VNET_GSO_TCPV4 && version == 4) || (type == VNET_GSO_TCPV6 && version == 6) ||
                 (type == VNET_GSO_UDP_L4 && (version == 4 || version == 6));
    *protocol = type == VNET_GSO_UDP_L4 ? IPPROTO_UDP : IPPROTO_TCP;
    if (!known || !(vnet->flags & VNET_NEEDS_CSUM) || !vnet->gso_size || start + least > length)
        return 0;
    if (version == 4 ? (packet[0] & 15u) < 5 || start != (packet[0] & 15u) * 4 : start < 40)
        return 0;
    uint32_t header = start + (*protocol == IPPROTO_UDP ? 8 : (packet[start + 12] >> 4) * 4u);
    return header < start + least || header > length || header > SEGMENT_HEADER_MAX ? 0 : header;
}

static void complete(const struct vnet_header *vnet, uint8_t *packet, uint32_t length)
{
    uint32_t value = ~model_sum(0, packet + vnet->csum_start, length - vnet->csum_start) & 0xffff;
    put16(packet + vnet->csum_start + vnet->csum_offset, value ? value : 0xffff);
}

bool model_segment(const struct vnet_header *vnet, const uint8_t *packet, uint32_t length,
                   void (*each)(void *context, const uint8_t *packet, uint32_t length), void *context)
{
    static uint8_t made[MODEL_PACKET_MAX + 1];
    if ((vnet->gso_type & 0x7f) == VNET_GSO_NONE) {
        memcpy(made, packet, length);
        if (vnet->flags & VNET_NEEDS_CSUM) {
            if (vnet->csum_start >= length || (uint32_t)vnet->csum_start + vnet->csum_offset + 2 > length)
                return false;
            complete(vnet, made, length);
        }
        each(context, made, length);
        return true;
    }
    uint8_t protocol;
    uint32_t header = super_header(vnet, packet, length, &protocol);
    if (!header)
        return false;
    uint32_t start = vnet->csum_start, index = 0, at = header;
    do {
        uint32_t payload = length - at < vnet->gso_size ? length - at : vnet->gso_size;
        bool last = at + payload == length;
        memcpy(made, packet, header);
        memcpy(made + header, packet + at, payload);
        if (packet[0] >> 4 == 6) {
            put16(made + 4, header + payload - 40);
        } else {
            put16(made + 2, header + payload);
            put16(made + 4, get16(packet + 4) + index);
        }
        if (protocol == IPPROTO_UDP) {
            put16(made + start + 4, header + payload - start);
        } else {
            put32(made + start + 4, (get16(packet + start + 4) << 16 | get16(packet + start + 6)) + at - header);
            /* CWR on the first segment only, FIN and PSH on the last. */
            made[start + 13] &= (uint8_t)~((index ? 0x80 : 0) | (last ? 0 : 0x09));
        }
        model_fill_checksums(made, header + payload, start, protocol);
        each(context, made, header + payload);
        at += payload;
        index++;
    } while (at < length);
    return true;
}
