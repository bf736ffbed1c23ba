/* rtnetlink messages: requests to the kernel's routing tables, and the answers. No socket and no state: routes.c has those.
 * Sources: rtnetlink(7), netlink(7), linux/rtnetlink.h.
 *
 * Every length is checked against what is really there before anything behind it is read. */
#ifndef UDPRING_TUNNEL_ROUTES_NETLINK_H
#define UDPRING_TUNNEL_ROUTES_NETLINK_H
#include "../../base.h"

#include "../abi.h"

#define NETLINK_REQUEST_BYTES 256

struct link_note {
    uint32_t interface_index;
    uint32_t vrf;    /* the VRF that it belongs to. 0: none */
};

/* Writes an RTM_GETROUTE request. Returns its length. */
size_t netlink_route_request(uint8_t request[NETLINK_REQUEST_BYTES], const struct udpring_route_query *query, uint32_t sequence);
/* Writes a request for all links. Returns its length. */
size_t netlink_links_request(uint8_t request[NETLINK_REQUEST_BYTES], uint32_t sequence);
/* Finds the answer to the request with this number. 0. -ENODATA: none. Else the kernel's own -errno. A route
 * that discards packets is -ENETUNREACH. */
int netlink_route_answer(const uint8_t *bytes, size_t length, uint32_t sequence, struct udpring_route_answer *answer) UR_MUST_CHECK;
/* Calls `see` for each link in there. 1: the dump with this number ended. 0: it goes on. -errno: it failed. */
int netlink_links(const uint8_t *bytes, size_t length, uint32_t sequence,
                  void (*see)(void *context, const struct link_note *note), void *context) UR_MUST_CHECK;
#endif
