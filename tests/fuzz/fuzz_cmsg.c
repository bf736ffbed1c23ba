/* Ancillary data. The core and glibc's CMSG_ macros both parse the kernel's side. Control data that the core builds for a send
 * is parsed again. */
#include <netinet/in.h>
#include <sys/socket.h>
#include <time.h>

#include "input.h"
#include "udp/cmsg.h"

enum { CONTROL_MAX = 272, TYPE_UDP_SEGMENT = 103, TYPE_UDP_GRO = 104 };

static void set_local(struct udpring_packet *packet, uint16_t family, const void *ip)
{
    packet->local = (struct udpring_address){.family = family};
    memcpy(packet->local.ip, ip, family == AF_INET ? 4 : 16);
}

static void take_pktinfo6(struct udpring_packet *packet, const struct in6_pktinfo *info)
{
    packet->interface_index = info->ipi6_ifindex;
    if (IN6_IS_ADDR_V4MAPPED(&info->ipi6_addr)) {
        set_local(packet, AF_INET, info->ipi6_addr.s6_addr + 12);
        return;
    }
    set_local(packet, AF_INET6, &info->ipi6_addr);
    if (IN6_IS_ADDR_LINKLOCAL(&info->ipi6_addr))
        packet->local.scope_id = info->ipi6_ifindex;
}

/* One message as described in ip(7), ipv6(7), udp(7) and socket(7). */
static void model_take(const struct cmsghdr *header, struct udpring_packet *packet, uint32_t *drops)
{
    union { struct in_pktinfo four; struct in6_pktinfo six; struct timespec time; uint32_t word; uint8_t octet; } value;
    size_t bytes = header->cmsg_len - CMSG_LEN(0);
    memset(&value, 0, sizeof(value));
    memcpy(&value, CMSG_DATA(header), bytes < sizeof(value) ? bytes : sizeof(value));
    int level = header->cmsg_level, type = header->cmsg_type;
    if (level == SOL_IP && type == IP_PKTINFO && bytes >= sizeof(value.four)) {
        packet->interface_index = (uint32_t)value.four.ipi_ifindex;
        set_local(packet, AF_INET, &value.four.ipi_spec_dst);
    } else if (level == SOL_IP && type == IP_TOS && bytes >= 1) {
        packet->tos = value.octet;
    } else if (level == SOL_IPV6 && type == IPV6_PKTINFO && bytes >= sizeof(value.six)) {
        take_pktinfo6(packet, &value.six);
    } else if (level == SOL_IPV6 && type == IPV6_TCLASS && bytes >= 4) {
        packet->tos = (uint8_t)value.word;
    } else if (level == IPPROTO_UDP && type == TYPE_UDP_GRO && bytes >= 4) {
        packet->segment_size = value.word & 0xffff;
    } else if (level == SOL_SOCKET && type == SO_RXQ_OVFL && bytes >= 4) {
        *drops = value.word;
    } else if (level == SOL_SOCKET && type == SO_TIMESTAMPNS && bytes >= sizeof(value.time)) {
        packet->timestamp = (uint64_t)value.time.tv_sec * 1000000000u + (uint64_t)value.time.tv_nsec;
    }
}

static void parse(const uint8_t *control, size_t length)
{
    struct udpring_packet packet = {.tos = 1, .timestamp = 2}, expected = packet;
    uint32_t drops = 3, expected_drops = 3;
    void *aligned;
    CLAIM(posix_memalign(&aligned, _Alignof(struct cmsghdr), length ? length : 1) == 0, "no memory");
    memcpy(aligned, control, length);
    struct msghdr message = {.msg_control = aligned, .msg_controllen = length};
    for (struct cmsghdr *at = CMSG_FIRSTHDR(&message); at; at = CMSG_NXTHDR(&message, at)) {
        if (at->cmsg_len < CMSG_LEN(0) || at->cmsg_len > length - (size_t)((uint8_t *)at - (uint8_t *)aligned))
            break;
        model_take(at, &expected, &expected_drops);
    }
    udp_cmsg_parse(aligned, length, &packet, &drops);
    free(aligned);
    CLAIM(drops == expected_drops, "%u drops, not %u", drops, expected_drops);
    CLAIM(memcmp(&packet.local, &expected.local, sizeof(packet.local)) == 0, "local address, family %u", packet.local.family);
    CLAIM(packet.interface_index == expected.interface_index && packet.tos == expected.tos &&
              packet.segment_size == expected.segment_size && packet.timestamp == expected.timestamp,
          "interface %u, tos %u, segment %u", packet.interface_index, packet.tos, packet.segment_size);
}

static void check_source(const struct cmsghdr *header, const struct udp_tx_item *item, int family)
{
    union { struct in_pktinfo four; struct in6_pktinfo six; } value;
    static const uint8_t none[16];
    memcpy(&value, CMSG_DATA(header), header->cmsg_len - CMSG_LEN(0));
    const uint8_t *ip = item->source.family == family ? item->source.ip : none;
    bool four = family == AF_INET;
    CLAIM((four ? (uint32_t)value.four.ipi_ifindex : value.six.ipi6_ifindex) == item->interface_index, "the interface");
    CLAIM(!memcmp(four ? (const void *)&value.four.ipi_spec_dst : &value.six.ipi6_addr, ip, four ? 4 : 16), "the source");
}

/* The control data of a send, parsed: sizes fit, and the source is last, so that shortening removes it. */
static void build(struct input *input)
{
    uint8_t choice = input_u8(input);
    int family = choice & 1 ? AF_INET : AF_INET6;
    struct udp_tx_item item = {.segment_size = input_u16(input), .tos = input_u8(input), .ttl = input_u8(input),
                               .flags = input_u8(input) & UDP_TX_TOS_GIVEN, .interface_index = input_u16(input)};
    if (choice & 2)
        item.source.family = choice & 4 ? AF_INET : AF_INET6;
    input_copy(input, item.source.ip, sizeof(item.source.ip));
    bool train = choice & 8;
    size_t plain;
    uint8_t control[UDP_CMSG_BUILD_BYTES] __attribute__((aligned(16)));
    memset(control, 0xee, sizeof(control));
    size_t length = udp_cmsg_build(control, &item, family, train, &plain);
    CLAIM(plain <= length && length <= sizeof(control), "%zu of %zu", plain, length);
    struct msghdr message = {.msg_control = control, .msg_controllen = length};
    uint32_t segments = 0, tos = 0, ttl = 0, sources = 0;
    for (struct cmsghdr *at = CMSG_FIRSTHDR(&message); at; at = CMSG_NXTHDR(&message, at)) {
        bool ip = at->cmsg_level == (family == AF_INET ? SOL_IP : SOL_IPV6);
        size_t offset = (size_t)((uint8_t *)at - control);
        segments += at->cmsg_level == IPPROTO_UDP && at->cmsg_type == TYPE_UDP_SEGMENT;
        tos += ip && at->cmsg_type == (family == AF_INET ? IP_TOS : IPV6_TCLASS);
        ttl += ip && at->cmsg_type == (family == AF_INET ? IP_TTL : IPV6_HOPLIMIT);
        if (ip && at->cmsg_type == (family == AF_INET ? IP_PKTINFO : IPV6_PKTINFO)) {
            sources++;
            CLAIM(offset == plain, "the source is at %zu, not %zu", offset, plain);
            check_source(at, &item, family);
        }
    }
    bool sourced = item.source.family == family || item.interface_index;
    CLAIM(segments == train && ttl == (item.ttl != 0) && sources == sourced && (plain < length) == sourced &&
              tos == (item.tos || item.flags & UDP_TX_TOS_GIVEN),
          "%u segment, %u tos, %u ttl, %u source", segments, tos, ttl, sources);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {.bytes = bytes, .length = length};
    build(&input);
    parse(bytes, length < CONTROL_MAX ? length : CONTROL_MAX);
    return 0;
}
