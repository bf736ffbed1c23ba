/* Explicit congestion notification through the tunnel (RFC 6040, normal mode): the outer header carries what the inner one
 * says, and what the path marked on the outer one comes back to the inner. DSCP is not carried: it would tell an observer
 * what kind of traffic is inside (whitepaper 6). */
#ifndef UDPRING_TUNNEL_TUN_ECN_H
#define UDPRING_TUNNEL_TUN_ECN_H
#include "../../base.h"

enum { ECN_NOT_ECT = 0, ECN_ECT_1 = 1, ECN_ECT_0 = 2, ECN_CE = 3, ECN_MASK = 3 };

/* The ECN field of an IPv4 or IPv6 packet of at least 20 bytes. RFC 6040 4.1: this is the outer field too. */
static inline uint8_t ecn_of(const uint8_t *packet)
{
    return packet[0] >> 4 == 4 ? packet[1] & ECN_MASK : packet[1] >> 4 & ECN_MASK;
}

/* Applies the outer field to the inner packet (RFC 6040 4.2, figure 4). False: it must be dropped, for the path marked
 * congestion on a packet whose sender would not have heard of it. */
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
    if (packet[0] >> 4 == 6) {
        packet[1] = (uint8_t)((packet[1] & ~(ECN_MASK << 4)) | result << 4);
        return true;
    }
    packet[1] = (uint8_t)((packet[1] & ~ECN_MASK) | result);
    /* RFC 1624: HC' = ~(~HC + ~m + m'), where m is the 16-bit word whose low byte has changed. */
    uint32_t sum = (uint32_t)(uint16_t)~(packet[10] << 8 | packet[11]) + (uint16_t)~inner + result;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    packet[10] = (uint8_t)(~sum >> 8);
    packet[11] = (uint8_t)~sum;
    return true;
}
#endif
