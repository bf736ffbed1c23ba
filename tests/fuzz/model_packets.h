/* IP packets as in the RFCs and virtio, written independently of the core and without its speed: checksums word by word,
 * segmentation by copying. The core's results are compared with these. */
#ifndef UDPRING_FUZZ_MODEL_PACKETS_H
#define UDPRING_FUZZ_MODEL_PACKETS_H
#include "input.h"
#include "tunnel/tun/vnet.h"

enum { MODEL_PACKET_MAX = 65575 };   /* an IPv6 header and 65535 bytes */

/* RFC 1071 over `length` bytes, in host order. `sum`: the sum of earlier bytes, an even number of them. */
uint32_t model_sum(uint32_t sum, const uint8_t *bytes, size_t length);
/* The sum of the pseudo-header (RFC 793, RFC 8200 8.1) of a packet with this transport protocol and length. */
uint32_t model_pseudo(const uint8_t *packet, uint8_t protocol, uint32_t length);
/* Writes the transport checksum at offset `field` of the transport header, and an IPv4 header's own. */
void model_fill_checksums(uint8_t *packet, uint32_t length, uint32_t transport, uint8_t protocol);

/* One packet of a flow, as a sender's stack makes it. */
struct model_flow {
    bool v6, tcp;
    uint8_t source, destination;   /* last octet of the address */
    uint8_t net;                   /* first octet of an IPv4 source, second of an IPv6 source */
    uint8_t ports, options, tos, flags;
    bool dont_fragment;
    uint16_t identification;
    uint32_t sequence;
};
uint32_t model_header_bytes(const struct model_flow *flow);
/* Writes header, payload (varied by `salt`) and checksums. Advances the flow's counters. Returns the length. */
uint32_t model_packet(struct model_flow *flow, uint32_t payload, uint8_t salt, uint8_t *out);

/* Addresses, protocol and ports, zero padded. False: no packet of a TCP or UDP flow (a fragment, another protocol, ...). */
#define MODEL_FLOW_BYTES 40
bool model_flow_of(const uint8_t *packet, uint32_t length, uint8_t flow[MODEL_FLOW_BYTES]);

/* Segments a super-packet: `each` gets the packets in turn. Does not change it. False: header and packet contradict each other.
 * */
bool model_segment(const struct vnet_header *vnet, const uint8_t *packet, uint32_t length,
                   void (*each)(void *context, const uint8_t *packet, uint32_t length), void *context);
#endif
