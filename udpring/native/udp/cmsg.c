#include "cmsg.h"

#include <netinet/in.h>

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

static uint32_t read_u32(const uint8_t *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof(value));
    return value;
}

static uint64_t read_time(const uint8_t *from)
{
    struct timespec time;
    memcpy(&time, from, sizeof(time));
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void set_local4(struct udpring_packet *packet, const void *ip)
{
    memset(&packet->local, 0, sizeof(packet->local));
    packet->local.family = AF_INET;
    memcpy(packet->local.ip, ip, 4);
}

static void parse_pktinfo6(const uint8_t *data, struct udpring_packet *packet)
{
    struct in6_pktinfo info;
    memcpy(&info, data, sizeof(info));
    packet->interface_index = info.ipi6_ifindex;
    if (IN6_IS_ADDR_V4MAPPED(&info.ipi6_addr)) {
        set_local4(packet, info.ipi6_addr.s6_addr + 12);
        return;
    }
    packet->local.family = AF_INET6;
    packet->local.port = 0;
    packet->local.scope_id = IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr) ? info.ipi6_ifindex : 0;
    memcpy(packet->local.ip, &info.ipi6_addr, 16);
}

static void parse_ip(const struct cmsghdr *message, const uint8_t *data, size_t length, struct udpring_packet *packet)
{
    if (message->cmsg_type == IP_PKTINFO && length >= sizeof(struct in_pktinfo)) {
        struct in_pktinfo info;
        memcpy(&info, data, sizeof(info));
        packet->interface_index = (uint32_t)info.ipi_ifindex;
        /* ipi_addr is the destination in the header. ipi_spec_dst is the local address for replies. They differ for broadcast
         * and multicast. */
        set_local4(packet, &info.ipi_spec_dst);
    } else if (message->cmsg_type == IP_TOS && length >= 1) {
        packet->tos = data[0];
    }
}

static void parse_ipv6(const struct cmsghdr *message, const uint8_t *data, size_t length, struct udpring_packet *packet)
{
    if (message->cmsg_type == IPV6_PKTINFO && length >= sizeof(struct in6_pktinfo))
        parse_pktinfo6(data, packet);
    else if (message->cmsg_type == IPV6_TCLASS && length >= 4)
        packet->tos = (uint8_t)read_u32(data);
}

void udp_cmsg_parse(const uint8_t *control, size_t length, struct udpring_packet *packet, uint32_t *drops)
{
    while (length >= sizeof(struct cmsghdr)) {
        const struct cmsghdr *message = (const struct cmsghdr *)(const void *)control;
        size_t whole = message->cmsg_len;
        if (whole < CMSG_LEN(0) || whole > length)
            return;
        const uint8_t *data = control + CMSG_LEN(0);
        size_t bytes = whole - CMSG_LEN(0);
        switch (message->cmsg_level) {
        case SOL_IP: parse_ip(message, data, bytes, packet); break;
        case SOL_IPV6: parse_ipv6(message, data, bytes, packet); break;
        case SOL_UDP:   /* an int in every kernel, unlike the u16 of UDP_SEGMENT */
            if (message->cmsg_type == UDP_GRO && bytes >= 4)
                packet->segment_size = read_u32(data) & 0xffff;
            break;
        case SOL_SOCKET:
            if (message->cmsg_type == SO_RXQ_OVFL && bytes >= 4)
                *drops = read_u32(data);
            else if (message->cmsg_type == SO_TIMESTAMPNS && bytes >= sizeof(struct timespec))
                packet->timestamp = read_time(data);
            break;
        default: break;
        }
        size_t step = CMSG_ALIGN(whole);
        if (step >= length)
            return;
        control += step;
        length -= step;
    }
}

/* Appends one message: copies its bytes and zeroes the padding. Inlined, so that the lengths are constants and the copies take
 * a few instructions. */
static inline __attribute__((always_inline)) uint8_t *append(uint8_t *at, int level, int type, const void *data, size_t bytes)
{
    struct cmsghdr header = {.cmsg_len = CMSG_LEN(bytes), .cmsg_level = level, .cmsg_type = type};
    memset(at, 0, CMSG_SPACE(bytes));
    memcpy(at, &header, sizeof(header));
    memcpy(at + CMSG_LEN(0), data, bytes);
    return at + CMSG_SPACE(bytes);
}

size_t udp_cmsg_build(uint8_t control[UDP_CMSG_BUILD_BYTES], const struct udp_tx_item *item, int family,
                      bool segment, size_t *plain)
{
    _Static_assert(CMSG_SPACE(2) + 2 * CMSG_SPACE(4) + CMSG_SPACE(sizeof(struct in6_pktinfo)) <= UDP_CMSG_BUILD_BYTES,
                   "room for all four messages");
    uint8_t *at = control;
    if (segment) {
        uint16_t size = (uint16_t)item->segment_size;
        at = append(at, SOL_UDP, UDP_SEGMENT, &size, sizeof(size));
    }
    if (item->tos || item->flags & UDP_TX_TOS_GIVEN) {
        int tos = item->tos;
        at = family == AF_INET ? append(at, SOL_IP, IP_TOS, &tos, sizeof(tos))
                               : append(at, SOL_IPV6, IPV6_TCLASS, &tos, sizeof(tos));
    }
    if (item->ttl) {
        int ttl = item->ttl;
        at = family == AF_INET ? append(at, SOL_IP, IP_TTL, &ttl, sizeof(ttl))
                               : append(at, SOL_IPV6, IPV6_HOPLIMIT, &ttl, sizeof(ttl));
    }
    *plain = (size_t)(at - control);
    bool sourced = item->source.family == family;
    if (!sourced && !item->interface_index)
        return *plain;
    if (family == AF_INET) {
        struct in_pktinfo info = {.ipi_ifindex = (int)item->interface_index};
        if (sourced)
            memcpy(&info.ipi_spec_dst, item->source.ip, 4);
        at = append(at, SOL_IP, IP_PKTINFO, &info, sizeof(info));
    } else {
        struct in6_pktinfo info = {.ipi6_ifindex = item->interface_index};
        if (sourced)
            memcpy(&info.ipi6_addr, item->source.ip, 16);
        at = append(at, SOL_IPV6, IPV6_PKTINFO, &info, sizeof(info));
    }
    return (size_t)(at - control);
}
