/* Writing super-packets, also to a device that refuses some of them.
 *
 * Linux 6.1.103, 6.6.44 and 6.10.3 accept TUNSETOFFLOAD, but their check of a super-packet is wrong: they refuse some with
 * EINVAL. Which ones depends on the lengths: all of a flow, or only those whose last segment is short. So only a write
 * shows it. A refused super-packet is written again as the packets that it was made of. A kind that is refused again
 * and again is no longer made. */
#ifndef UDPRING_TUNNEL_TUN_COALESCE_WRITE_H
#define UDPRING_TUNNEL_TUN_COALESCE_WRITE_H
#include <netinet/in.h>

#include "coalesce.h"

enum { TCP_HEADER_MIN = 20, TCP_SEQUENCE = 4, TCP_ACKNOWLEDGEMENT = 8, TCP_OFFSET = 12, TCP_FLAGS = 13, TCP_WINDOW = 14,
       TCP_CHECKSUM = 16, TCP_URGENT = 18 };
enum { UDP_HEADER = 8, UDP_LENGTH = 4, UDP_CHECKSUM = 6 };
enum { TCP_PSH = 0x08, TCP_ACK = 0x10 };

void coalesce_write_packet(struct coalescer *coalescer, uint8_t *packet, uint32_t length);
/* A super-packet, or the packet that found none to follow it. */
void coalesce_write_flow(struct coalescer *coalescer, struct coalesce_flow *flow);

static inline uint32_t coalesce_kind(uint8_t protocol, bool v6)
{
    return (protocol == IPPROTO_UDP ? 2u : 0u) + v6;
}

/* Whether the device takes super-packets of this kind, as far as is known. with_short: those with a short last segment. */
static inline bool coalesce_taken(const struct coalesce_refusals *refusals, uint8_t protocol, bool v6, bool with_short)
{
    return refusals->in_a_row[coalesce_kind(protocol, v6)][with_short] < COALESCE_REFUSALS;
}
#endif
