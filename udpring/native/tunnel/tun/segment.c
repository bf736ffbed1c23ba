#include "segment.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stddef.h>

#include "checksum.h"

enum { TCP_HEADER_MIN = 20, TCP_SEQUENCE = 4, TCP_OFFSET = 12, TCP_FLAGS = 13, TCP_CHECKSUM = 16 };
enum { UDP_HEADER = 8, UDP_LENGTH = 4, UDP_CHECKSUM = 6 };
enum { TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_CWR = 0x80 };

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static uint32_t get16(const uint8_t *at)
{
    return (uint32_t)at[0] << 8 | at[1];
}

static uint32_t get32(const uint8_t *at)
{
    return get16(at) << 16 | get16(at + 2);
}

/* Completes the checksum that the kernel left out of a single packet. */
static int complete_checksum(const struct vnet_header *vnet, uint8_t *packet, uint32_t length)
{
    uint32_t start = vnet->csum_start, field = start + vnet->csum_offset;
    if (start >= length || field + 2 > length)
        return -EINVAL;
    uint16_t sum = (uint16_t)~checksum_fold(checksum_add(0, packet + start, length - start));
    /* Zero means "none" in UDP over IPv4 and is invalid over IPv6 (RFC 768, RFC 8200 8.1). As a sum the two are one. */
    if (sum == 0)
        sum = 0xffff;
    memcpy(packet + field, &sum, sizeof(sum));
    return 0;
}

int segment_open(struct segmenter *segmenter, const struct vnet_header *vnet, uint8_t *packet, uint32_t length)
{
    memset(segmenter, 0, offsetof(struct segmenter, saved));   /* not the bulk of it: this runs for every single packet */
    segmenter->packet = packet;
    segmenter->length = length;
    uint8_t type = vnet->gso_type & (uint8_t)~VNET_GSO_ECN;
    if (type == VNET_GSO_NONE)
        return vnet->flags & VNET_NEEDS_CSUM ? complete_checksum(vnet, packet, length) : 0;
    if (length < 20 || (type != VNET_GSO_TCPV4 && type != VNET_GSO_TCPV6 && type != VNET_GSO_UDP_L4))
        return -EINVAL;
    segmenter->v6 = packet[0] >> 4 == 6;
    uint32_t ip = segmenter->v6 ? 40 : (packet[0] & 15u) * 4u;
    if ((packet[0] >> 4 != 4 && !segmenter->v6) || (type == VNET_GSO_TCPV4 && segmenter->v6) ||
        (type == VNET_GSO_TCPV6 && !segmenter->v6))
        return -EINVAL;
    segmenter->protocol = type == VNET_GSO_UDP_L4 ? IPPROTO_UDP : IPPROTO_TCP;
    uint32_t least = segmenter->protocol == IPPROTO_UDP ? UDP_HEADER : TCP_HEADER_MIN;
    segmenter->transport = vnet->csum_start;    /* behind IPv6 extension headers too */
    if (!(vnet->flags & VNET_NEEDS_CSUM) || segmenter->transport < ip || segmenter->transport + least > length ||
        (!segmenter->v6 && (ip < 20 || segmenter->transport != ip)))
        return -EINVAL;
    /* hdr_len is only a hint (the kernel may give what is in its linear part): the header's own length counts. */
    uint32_t bytes = least;
    if (segmenter->protocol == IPPROTO_TCP)
        bytes = (packet[segmenter->transport + TCP_OFFSET] >> 4) * 4u;
    segmenter->header = segmenter->transport + bytes;
    segmenter->segment = vnet->gso_size;
    if (bytes < least || segmenter->header > SEGMENT_HEADER_MAX || segmenter->header > length || !segmenter->segment)
        return -EINVAL;
    memcpy(segmenter->saved, packet, segmenter->header);
    segmenter->addresses = segmenter->v6 ? checksum_few(packet + 8, 8) : checksum_few(packet + 12, 2);
    return 0;
}

static void fill_ip(const struct segmenter *segmenter, uint8_t *packet, uint32_t length)
{
    if (segmenter->v6) {
        put16(packet + 4, length - 40);
        return;
    }
    put16(packet + 2, length);
    put16(packet + 4, get16(segmenter->saved + 4) + segmenter->index);
    checksum_ipv4_header(packet, (packet[0] & 15u) * 4u);
}

static void fill_transport(const struct segmenter *segmenter, uint8_t *packet, uint32_t length, bool last)
{
    uint8_t *transport = packet + segmenter->transport;
    uint32_t bytes = length - segmenter->transport;
    uint8_t *field;
    if (segmenter->protocol == IPPROTO_TCP) {
        uint32_t sequence = htonl(get32(segmenter->saved + segmenter->transport + TCP_SEQUENCE) + segmenter->at);
        memcpy(transport + TCP_SEQUENCE, &sequence, sizeof(sequence));
        if (segmenter->index)
            transport[TCP_FLAGS] &= (uint8_t)~TCP_CWR;
        if (!last)
            transport[TCP_FLAGS] &= (uint8_t)~(TCP_FIN | TCP_PSH);
        field = transport + TCP_CHECKSUM;
    } else {
        put16(transport + UDP_LENGTH, bytes);
        field = transport + UDP_CHECKSUM;
    }
    field[0] = field[1] = 0;
    uint64_t sum = segmenter->addresses + htonl(bytes) + htonl(segmenter->protocol);
    uint16_t folded = (uint16_t)~checksum_fold(checksum_add(sum, transport, bytes));
    if (folded == 0 && segmenter->protocol == IPPROTO_UDP)
        folded = 0xffff;
    memcpy(field, &folded, sizeof(folded));
}

bool segment_next(struct segmenter *segmenter, uint8_t **packet, uint32_t *length)
{
    if (segmenter->done)
        return false;
    if (!segmenter->segment) {
        segmenter->done = true;
        *packet = segmenter->packet;
        *length = segmenter->length;
        return true;
    }
    uint32_t payload = segmenter->length - segmenter->header - segmenter->at;
    bool last = payload <= segmenter->segment;
    if (!last)
        payload = segmenter->segment;
    *packet = segmenter->packet + segmenter->at;
    *length = segmenter->header + payload;
    if (segmenter->index)
        memcpy(*packet, segmenter->saved, segmenter->header);
    fill_ip(segmenter, *packet, *length);
    fill_transport(segmenter, *packet, *length, last);
    segmenter->at += payload;
    segmenter->index++;
    segmenter->done = last;
    return true;
}
