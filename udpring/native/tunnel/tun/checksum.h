/* The Internet checksum (RFC 1071) over inner packets: one pass, vectorised by the compiler for the CPU found at run time. */
#ifndef UDPRING_TUNNEL_TUN_CHECKSUM_H
#define UDPRING_TUNNEL_TUN_CHECKSUM_H
#include "../../base.h"

#include <arpa/inet.h>

/* The unfolded sum of `length` bytes as 16-bit words in host order of their network bytes, added to `sum`.
 * Parts are summed one after another as long as every part but the last has an even length. */
uint64_t checksum_add(uint64_t sum, const uint8_t *bytes, size_t length);

static inline uint16_t checksum_fold(uint64_t sum)
{
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffffffu) + (sum >> 32);
    sum = (sum & 0xffffu) + (sum >> 16);
    sum = (sum & 0xffffu) + (sum >> 16);
    return (uint16_t)sum;
}

/* checksum_add(0, bytes, 4 * words) for a few words, without a call. */
static inline uint64_t checksum_few(const uint8_t *bytes, size_t words)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < words; i++) {
        uint32_t word;
        memcpy(&word, bytes + 4 * i, sizeof(word));
        sum += word;
    }
    return sum;
}

/* The sum of the pseudo-header: addresses straight from the IP header, protocol and length of the segment. */
static inline uint64_t checksum_pseudo(const uint8_t *addresses, bool v6, uint8_t protocol, uint32_t length)
{
    return (v6 ? checksum_few(addresses, 8) : checksum_few(addresses, 2)) + htonl(length) + htonl(protocol);
}

/* Writes the checksum of an IPv4 header of `bytes` bytes (RFC 791) into it. */
void checksum_ipv4_header(uint8_t *header, size_t bytes);
#endif
