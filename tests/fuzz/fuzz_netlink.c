/* rtnetlink messages of any bytes. The core and, in aligned memory, the kernel's own macros (netlink(3), rtnetlink(3)) parse
 * them.
 * The core's requests are parsed too. */
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

#include "input.h"
#include "../native/abi.h"
#include "tunnel/routes/netlink.h"

#pragma GCC diagnostic ignored "-Wsign-compare"   /* in the macros */

enum { LINKS_MAX = 64, SEQUENCE = 7 };

/* Owner: the harness. Attributes seen in a message, in order. */
struct links {
    struct udpring_link_note note[LINKS_MAX];
    uint32_t count;
};

static uint32_t number(const struct rtattr *attribute)
{
    uint32_t value = 0;
    if (RTA_PAYLOAD(attribute) >= sizeof(value))
        memcpy(&value, RTA_DATA(attribute), sizeof(value));
    return value;
}

static int model_error(const struct nlmsghdr *header)
{
    int32_t error = -EPROTO;
    if (header->nlmsg_len >= NLMSG_LENGTH(sizeof(error)))
        memcpy(&error, NLMSG_DATA(header), sizeof(error));
    return error < 0 && error > -4096 ? error : -EPROTO;
}

static int model_route(const struct nlmsghdr *header, struct udpring_route_answer *answer)
{
    const struct rtmsg *route = NLMSG_DATA(header);
    if (header->nlmsg_len < NLMSG_LENGTH(sizeof(*route)))
        return -EPROTO;
    int left = (int)header->nlmsg_len - (int)NLMSG_SPACE(sizeof(*route));
    for (const struct rtattr *at = RTM_RTA(route); RTA_OK(at, left); at = RTA_NEXT(at, left))
        if ((at->rta_type & NLA_TYPE_MASK) == RTA_OIF)
            answer->interface_index = number(at);
    answer->local = route->rtm_type == RTN_LOCAL;
    bool discards = route->rtm_type == RTN_UNREACHABLE || route->rtm_type == RTN_BLACKHOLE || route->rtm_type == RTN_PROHIBIT ||
                    route->rtm_type == RTN_THROW;
    return discards ? -ENETUNREACH : 0;
}

static int model_answer(const void *bytes, int length, struct udpring_route_answer *answer)
{
    for (const struct nlmsghdr *at = bytes; NLMSG_OK(at, length); at = NLMSG_NEXT(at, length)) {
        if (at->nlmsg_seq != SEQUENCE)
            continue;
        if (at->nlmsg_type == NLMSG_ERROR)
            return model_error(at);
        if (at->nlmsg_type == RTM_NEWROUTE)
            return model_route(at, answer);
    }
    return -ENODATA;
}

static bool model_vrf(const struct rtattr *info)
{
    int left = (int)RTA_PAYLOAD(info);
    for (const struct rtattr *at = RTA_DATA(info); RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        if ((at->rta_type & NLA_TYPE_MASK) != IFLA_INFO_SLAVE_KIND)
            continue;
        const char *kind = RTA_DATA(at);
        size_t room = RTA_PAYLOAD(at);
        return room == 3 ? !memcmp(kind, "vrf", 3) : room > 3 && !memcmp(kind, "vrf", 4);
    }
    return false;
}

static void model_link(const struct nlmsghdr *header, struct links *links)
{
    const struct ifinfomsg *link = NLMSG_DATA(header);
    if (header->nlmsg_len < NLMSG_LENGTH(sizeof(*link)) || link->ifi_index <= 0 || link->ifi_family != AF_UNSPEC)
        return;
    uint32_t master = 0;
    bool vrf = false;
    int left = (int)header->nlmsg_len - (int)NLMSG_SPACE(sizeof(*link));
    for (const struct rtattr *at = IFLA_RTA(link); RTA_OK(at, left); at = RTA_NEXT(at, left)) {
        if ((at->rta_type & NLA_TYPE_MASK) == IFLA_MASTER)
            master = number(at);
        else if ((at->rta_type & NLA_TYPE_MASK) == IFLA_LINKINFO)
            vrf = model_vrf(at);
    }
    if (links->count < LINKS_MAX)
        links->note[links->count] = (struct udpring_link_note){(uint32_t)link->ifi_index,
                                                               vrf && header->nlmsg_type != RTM_DELLINK ? master : 0};
    links->count++;
}

static int model_links(const void *bytes, int length, struct links *links)
{
    for (const struct nlmsghdr *at = bytes; NLMSG_OK(at, length); at = NLMSG_NEXT(at, length)) {
        if (at->nlmsg_seq == SEQUENCE && at->nlmsg_type == NLMSG_DONE)
            return 1;
        if (at->nlmsg_seq == SEQUENCE && at->nlmsg_type == NLMSG_ERROR)
            return model_error(at);
        if (at->nlmsg_type == RTM_NEWLINK || at->nlmsg_type == RTM_DELLINK)
            model_link(at, links);
    }
    return 0;
}

/* Most messages answer our request and have known types. */
static void shape(struct input *input, uint8_t *bytes, size_t length)
{
    static const uint16_t types[] = {RTM_NEWROUTE, RTM_NEWLINK, RTM_DELLINK, NLMSG_DONE, NLMSG_ERROR, RTM_NEWROUTE, RTM_NEWLINK, RTM_NEWADDR};
    for (size_t at = 0; at + sizeof(struct nlmsghdr) <= length;) {
        struct nlmsghdr header;
        uint8_t choice = input_u8(input);
        memcpy(&header, bytes + at, sizeof(header));
        if (choice & 0x10)
            header.nlmsg_type = types[choice & 7];
        if (choice & 0x20)
            header.nlmsg_seq = SEQUENCE;
        if (choice & 0x40)
            header.nlmsg_len = 16u + (header.nlmsg_len & 127);
        memcpy(bytes + at, &header, sizeof(header));
        if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > length - at)
            return;
        at += NLMSG_ALIGN(header.nlmsg_len);
    }
}

static void check_request(struct input *input)
{
    uint8_t request[NETLINK_REQUEST_BYTES], choice = input_u8(input);
    struct udpring_route_query query = {.interface_index = input_u8(input), .mark = input_u8(input), .from_port = input_u8(input)};
    query.to = (struct udpring_address){.family = choice & 1 ? AF_INET6 : AF_INET, .port = choice, .ip = {choice}};
    query.from.family = choice & 2 ? query.to.family : 0;
    memset(request, 0xee, sizeof(request));
    size_t length = netlink_route_request(request, &query, SEQUENCE);
    struct nlmsghdr header;
    memcpy(&header, request, sizeof(header));
    CLAIM(length <= sizeof(request) && header.nlmsg_len == length && header.nlmsg_type == RTM_GETROUTE && header.nlmsg_seq == SEQUENCE,
          "%zu bytes, %u", length, header.nlmsg_len);
    int left = (int)(length - NLMSG_SPACE(sizeof(struct rtmsg)));
    uint32_t attributes = 0;
    for (const struct rtattr *at = (const void *)(request + NLMSG_SPACE(sizeof(struct rtmsg))); RTA_OK(at, left); at = RTA_NEXT(at, left))
        attributes++;
    uint32_t expected = 2u + (query.from.family != 0) + (query.interface_index != 0) + (query.mark != 0) + (query.from_port != 0) +
                        (query.to.port != 0);
    CLAIM(left == 0 && attributes == expected, "%u attributes, not %u", attributes, expected);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {.bytes = bytes, .length = length};
    struct udpring_route_answer answer = {0}, expected = {0};
    struct links seen, model = {0};
    check_request(&input);
    size_t left = length - input.at;
    uint8_t *copy = exactly(bytes + input.at, left);
    shape(&input, copy, left);
    int result = netlink_route_answer(copy, left, SEQUENCE, &answer), right = model_answer(copy, (int)left, &expected);
    CLAIM(result == right, "the core says %d, the macros %d", result, right);
    CLAIM(result != 0 || (answer.interface_index == expected.interface_index && answer.local == expected.local), "interface %u, not %u",
          answer.interface_index, expected.interface_index);
    result = udpring_links(copy, (uint32_t)left, SEQUENCE, seen.note, LINKS_MAX, &seen.count);
    right = model_links(copy, (int)left, &model);
    CLAIM(result == right && seen.count == model.count, "%d with %u links, not %d with %u", result, seen.count, right, model.count);
    for (uint32_t i = 0; i < seen.count && i < LINKS_MAX; i++)
        CLAIM(seen.note[i].interface_index == model.note[i].interface_index && seen.note[i].vrf == model.note[i].vrf, "link %u", i);
    free(copy);
    return 0;
}
