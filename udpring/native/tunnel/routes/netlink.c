#include "netlink.h"

#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>

/* ---- requests ---- */

static size_t append(uint8_t *request, size_t at, uint16_t type, const void *value, uint16_t bytes)
{
    struct rtattr attribute = {.rta_len = (uint16_t)RTA_LENGTH(bytes), .rta_type = type};
    memset(request + at, 0, RTA_SPACE(bytes));
    memcpy(request + at, &attribute, sizeof(attribute));
    memcpy(request + at + RTA_LENGTH(0), value, bytes);
    return at + RTA_SPACE(bytes);
}

static size_t append_port(uint8_t *request, size_t at, uint16_t type, uint16_t port)
{
    uint16_t swapped = __builtin_bswap16(port);
    const uint16_t wire = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? swapped : port;
    return port ? append(request, at, type, &wire, sizeof(wire)) : at;
}

static size_t finish(uint8_t *request, size_t length, uint16_t type, uint16_t flags, uint32_t sequence)
{
    struct nlmsghdr header = {.nlmsg_len = (uint32_t)length, .nlmsg_type = type, .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags),
                              .nlmsg_seq = sequence};
    memcpy(request, &header, sizeof(header));
    return length;
}

size_t netlink_route_request(uint8_t request[NETLINK_REQUEST_BYTES], const struct udpring_route_query *query, uint32_t sequence)
{
    _Static_assert(NLMSG_SPACE(sizeof(struct rtmsg)) + 2 * RTA_SPACE(16) + 3 * RTA_SPACE(4) + 2 * RTA_SPACE(2) <= NETLINK_REQUEST_BYTES,
                   "room for all attributes");
    uint16_t bytes = query->to.family == AF_INET ? 4 : 16;
    struct rtmsg route = {.rtm_family = (uint8_t)query->to.family, .rtm_dst_len = (uint8_t)(bytes * 8)};
    uint8_t protocol = 17;
    if (query->from.family)
        route.rtm_src_len = route.rtm_dst_len;
    size_t at = NLMSG_SPACE(sizeof(route));
    memset(request, 0, at);
    memcpy(request + NLMSG_HDRLEN, &route, sizeof(route));
    at = append(request, at, RTA_DST, query->to.ip, bytes);
    if (query->from.family)
        at = append(request, at, RTA_SRC, query->from.ip, bytes);
    if (query->interface_index)
        at = append(request, at, RTA_OIF, &query->interface_index, 4);
    if (query->mark)
        at = append(request, at, RTA_MARK, &query->mark, 4);
    at = append(request, at, RTA_IP_PROTO, &protocol, 1);   /* rules may ask for protocol and ports, and a hash may take them */
    at = append_port(request, at, RTA_SPORT, query->from_port);
    at = append_port(request, at, RTA_DPORT, query->to.port);
    return finish(request, at, RTM_GETROUTE, 0, sequence);
}

size_t netlink_links_request(uint8_t request[NETLINK_REQUEST_BYTES], uint32_t sequence)
{
    struct ifinfomsg link = {.ifi_family = AF_UNSPEC};
    uint32_t mask = RTEXT_FILTER_SKIP_STATS;
    size_t at = NLMSG_SPACE(sizeof(link));
    memset(request, 0, at);
    memcpy(request + NLMSG_HDRLEN, &link, sizeof(link));
    at = append(request, at, IFLA_EXT_MASK, &mask, sizeof(mask));
    return finish(request, at, RTM_GETLINK, NLM_F_DUMP, sequence);
}

/* ---- answers ---- */

struct piece {
    const uint8_t *bytes;
    size_t length;
};

/* Takes one message off the front. False: there is no whole one. */
static bool next_message(struct piece *from, struct nlmsghdr *header, struct piece *body)
{
    if (from->length < sizeof(*header))
        return false;
    memcpy(header, from->bytes, sizeof(*header));
    if (header->nlmsg_len < NLMSG_HDRLEN || header->nlmsg_len > from->length)
        return false;
    *body = (struct piece){from->bytes + NLMSG_HDRLEN, header->nlmsg_len - NLMSG_HDRLEN};
    size_t step = NLMSG_ALIGN(header->nlmsg_len);
    step = step < from->length ? step : from->length;
    from->bytes += step;
    from->length -= step;
    return true;
}

/* Likewise one attribute. */
static bool next_attribute(struct piece *from, uint16_t *type, struct piece *value)
{
    struct rtattr attribute;
    if (from->length < sizeof(attribute))
        return false;
    memcpy(&attribute, from->bytes, sizeof(attribute));
    if (attribute.rta_len < RTA_LENGTH(0) || attribute.rta_len > from->length)
        return false;
    *type = attribute.rta_type & NLA_TYPE_MASK;
    *value = (struct piece){from->bytes + RTA_LENGTH(0), attribute.rta_len - RTA_LENGTH(0)};
    size_t step = RTA_ALIGN(attribute.rta_len);
    step = step < from->length ? step : from->length;
    from->bytes += step;
    from->length -= step;
    return true;
}

static uint32_t number(struct piece value)
{
    uint32_t found = 0;
    if (value.length >= sizeof(found))
        memcpy(&found, value.bytes, sizeof(found));
    return found;
}

/* The part behind a fixed header of `bytes` bytes. False: the message is shorter. */
static bool behind(struct piece body, void *header, size_t bytes, struct piece *attributes)
{
    if (body.length < bytes)
        return false;
    memcpy(header, body.bytes, bytes);
    size_t step = NLMSG_ALIGN(bytes);
    step = step < body.length ? step : body.length;
    *attributes = (struct piece){body.bytes + step, body.length - step};
    return true;
}

static int error_of(struct piece body)
{
    int32_t error = (int32_t)number(body);
    return body.length >= sizeof(error) && error > -4096 && error < 0 ? error : body.length >= sizeof(error) && !error ? 0 : -EPROTO;
}

static int route_of(struct piece body, struct udpring_route_answer *answer)
{
    struct rtmsg route;
    struct piece attributes, value;
    uint16_t type;
    if (!behind(body, &route, sizeof(route), &attributes))
        return -EPROTO;
    *answer = (struct udpring_route_answer){0};
    while (next_attribute(&attributes, &type, &value))
        if (type == RTA_OIF)
            answer->interface_index = number(value);
    switch (route.rtm_type) {
    case RTN_LOCAL: answer->local = 1; break;
    case RTN_UNREACHABLE: case RTN_BLACKHOLE: case RTN_PROHIBIT: case RTN_THROW: return -ENETUNREACH;
    default: break;
    }
    return 0;
}

int netlink_route_answer(const uint8_t *bytes, size_t length, uint32_t sequence, struct udpring_route_answer *answer)
{
    struct piece from = {bytes, length}, body;
    struct nlmsghdr header;
    while (next_message(&from, &header, &body)) {
        if (header.nlmsg_seq != sequence)
            continue;
        if (header.nlmsg_type == NLMSG_ERROR) {
            int error = error_of(body);
            return error ? error : -EPROTO;
        }
        if (header.nlmsg_type == RTM_NEWROUTE)
            return route_of(body, answer);
    }
    return -ENODATA;
}

/* The kind of the link's master: "vrf", "bridge", ... */
static bool is_vrf_slave(struct piece info)
{
    struct piece value;
    uint16_t type;
    while (next_attribute(&info, &type, &value))
        if (type == IFLA_INFO_SLAVE_KIND)
            return value.length >= 3 && memcmp(value.bytes, "vrf", 3) == 0 && (value.length == 3 || !value.bytes[3]);
    return false;
}

static bool link_of(struct piece body, bool gone, struct link_note *note)
{
    struct ifinfomsg link;
    struct piece attributes, value;
    uint16_t type;
    uint32_t master = 0;
    bool vrf = false;
    if (!behind(body, &link, sizeof(link), &attributes) || link.ifi_index <= 0 || link.ifi_family != AF_UNSPEC)
        return false;   /* a bridge's own notes have its family */
    while (next_attribute(&attributes, &type, &value)) {
        if (type == IFLA_MASTER)
            master = number(value);
        else if (type == IFLA_LINKINFO)
            vrf = is_vrf_slave(value);
    }
    *note = (struct link_note){.interface_index = (uint32_t)link.ifi_index, .vrf = vrf && !gone ? master : 0};
    return true;
}

int netlink_links(const uint8_t *bytes, size_t length, uint32_t sequence,
                  void (*see)(void *context, const struct link_note *note), void *context)
{
    struct piece from = {bytes, length}, body;
    struct nlmsghdr header;
    struct link_note note;
    while (next_message(&from, &header, &body)) {
        bool ours = header.nlmsg_seq == sequence;
        if (ours && header.nlmsg_type == NLMSG_DONE)
            return 1;
        if (ours && header.nlmsg_type == NLMSG_ERROR) {
            int error = error_of(body);
            return error ? error : -EPROTO;
        }
        bool gone = header.nlmsg_type == RTM_DELLINK;
        if ((gone || header.nlmsg_type == RTM_NEWLINK) && link_of(body, gone, &note))
            see(context, &note);
    }
    return 0;
}

/* ---- the interface to Python ---- */

int32_t udpring_route_request(const struct udpring_route_query *query, uint32_t sequence, uint8_t *request)
{
    return (int32_t)netlink_route_request(request, query, sequence);
}

int32_t udpring_route_answer(const uint8_t *bytes, uint32_t length, uint32_t sequence, struct udpring_route_answer *answer)
{
    return netlink_route_answer(bytes, length, sequence, answer);
}
