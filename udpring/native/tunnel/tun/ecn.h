/* Explicit congestion notification through the tunnel (RFC 6040, normal mode): the outer header gets the field of the inner
 * one, and marks of the path go back to the inner one. A standing queue marks the inner packet before (flow_queue.c). DSCP is not
 * copied: it would show an observer the kind of traffic inside (whitepaper 6). */
#ifndef UDPRING_TUNNEL_TUN_ECN_H
#define UDPRING_TUNNEL_TUN_ECN_H
#include "../../base.h"

enum { ECN_NOT_ECT = 0, ECN_ECT_1 = 1, ECN_ECT_0 = 2, ECN_CE = 3, ECN_MASK = 3 };

/* The ECN field of an IPv4 or IPv6 packet of at least 20 bytes. RFC 6040 4.1: this is the outer field too. */
static inline uint8_t ecn_of(const uint8_t *packet)
{
    return packet[0] >> 4 == 4 ? packet[1] & ECN_MASK : packet[1] >> 4 & ECN_MASK;
}

/* Changes the field of such a packet, with the checksum of an IPv4 header. */
static inline void ecn_set(uint8_t *packet, uint8_t ecn)
{
    if (packet[0] >> 4 == 6) {
        packet[1] = (uint8_t)((packet[1] & ~(ECN_MASK << 4)) | ecn << 4);
        return;
    }
    uint8_t before = packet[1] & ECN_MASK;
    packet[1] = (uint8_t)((packet[1] & ~ECN_MASK) | ecn);
    /* RFC 1624: HC' = ~(~HC + ~m + m'), where m is the 16-bit word whose low byte has changed. */
    uint32_t sum = (uint32_t)(uint16_t)~(packet[10] << 8 | packet[11]) + (uint16_t)~before + ecn;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    packet[10] = (uint8_t)(~sum >> 8);
    packet[11] = (uint8_t)~sum;
}

/* Marks congestion (RFC 3168 5). False: its sender does not support that. */
static inline bool ecn_mark(uint8_t *packet)
{
    uint8_t ecn = ecn_of(packet);
    if (ecn == ECN_NOT_ECT)
        return false;
    if (ecn != ECN_CE)
        ecn_set(packet, ECN_CE);
    return true;
}

/* Applies the outer field to the inner packet (RFC 6040 4.2, figure 4). False: drop it, because the path marked
 * congestion and the sender does not support ECN. */
static inline bool ecn_decapsulate(uint8_t *packet, uint8_t outer)
{
    uint8_t inner = ecn_of(packet), result = inner;
    outer &= ECN_MASK;
    if (ur_likely(outer == inner))
        return true;
    if (inner == ECN_NOT_ECT)
        return outer != ECN_CE;
    if (outer == ECN_CE)
        result = ECN_CE;
    else if (outer == ECN_ECT_1 && inner == ECN_ECT_0)
        result = ECN_ECT_1;
    if (result == inner)
        return true;
    ecn_set(packet, result);
    return true;
}
#endif
