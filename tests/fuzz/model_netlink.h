/* rtnetlink of the model's kernel: routes, rules, links in VRFs, answers to look-ups and dumps, notices. */
#ifndef UDPRING_FUZZ_MODEL_NETLINK_H
#define UDPRING_FUZZ_MODEL_NETLINK_H
#include "input.h"
#include "tunnel/abi.h"

enum { ROUTE_SLOTS = 4, ROUTE_LINKS = 6, ROUTE_TUNNEL = 5 };

/* The target of a route: an interface from 1 to ROUTE_LINKS - 1, or one of these. */
enum { ROUTE_NONE = 0, ROUTE_LOCAL = 6, ROUTE_BLACKHOLE = 7, ROUTE_INVALID = 8, ROUTE_KINDS = 9 };

/* Faults of the next look-ups. */
enum lookup_fault {
    LOOKUP_GOOD, LOOKUP_BUSY, LOOKUP_SEND_FAILS, LOOKUP_LOST, LOOKUP_SHORT, LOOKUP_NOISE, LOOKUP_STRANGERS, LOOKUP_DENIED, LOOKUP_FAULTS
};

extern struct model_routes {
    uint8_t to[2][ROUTE_SLOTS];         /* by IP version and the destination's second byte */
    uint8_t from[2][2];                 /* a rule by the source's last bit, ROUTE_NONE: none */
    uint8_t marked[2];                  /* a rule for marked packets, likewise */
    uint8_t vrf[ROUTE_LINKS];           /* each interface's VRF, 0: none */
    uint8_t of_vrf[2][ROUTE_LINKS];     /* the target in the VRF's own table */
    enum lookup_fault fault;
    uint32_t faults;                    /* look-ups that the fault still affects */
    uint8_t dump_fault;                 /* 1: refused, 2: an error ends it, 3: short messages, 4: cut off, 5: socket denied, 6: busy */
    uint32_t lookups, struck, dumps_struck;
} model_routes;

void netlink_reset(void);
/* The interface of a packet. ROUTE_LOCAL and the like are possible answers. */
uint8_t netlink_route(const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index, uint32_t mark);
/* Sends a notice to every listener. `kind` chooses the message. */
void netlink_tell(uint8_t kind);
void netlink_tell_link(uint32_t interface_index, bool gone, bool cut);
/* The next read of a listener reports lost notices (ENOBUFS). */
void netlink_overrun(void);
#endif
