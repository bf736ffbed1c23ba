/* Look-ups in the kernel's routing tables, and notices of their changes.
 *
 * The rule is that of the kernel's WireGuard (drivers/net/wireguard/socket.c, send4), here for both IP versions. Packets to a
 * peer leave from the address on which the peer was heard last, as long as the route from that address leaves by the interface
 * on which the peer was heard. Otherwise the kernel chooses the address.
 *
 * 1. A handshake message is authentic, or a command sets an endpoint: the thread of the caller looks the route up
 *    (routes_choose) before the command reaches a worker. So the very next packet obeys the rule.
 * 2. A data packet makes a peer roam: the worker sends from the address that the packet came to, and requests a look-up.
 * 3. rtnetlink reports a change (routes, rules, addresses, links, next hops): the watch thread looks up all peers.
 * No worker waits for a look-up: the kernel answers under a lock (RTNL) that other programs may hold for long. */
#ifndef UDPRING_TUNNEL_ROUTES_ROUTES_H
#define UDPRING_TUNNEL_ROUTES_ROUTES_H
#include "../../base.h"

#include <pthread.h>
#include <sys/types.h>

#include "../limits.h"

#include "netlink.h"

/* The input of a look-up. Owner and thread: the caller. Nothing to free. */
struct path_query {
    struct udpring_address endpoint;
    struct udpring_address heard_on;   /* family 0: nowhere yet */
    uint32_t heard_by;                 /* the interface. 0: unknown */
    uint32_t mark;
    uint32_t bound_to;                 /* the interface that the sockets are bound to. 0: none */
    uint16_t port;
};

/* Where a route leads. */
enum way {
    WAY_OUT,             /* by another interface, or nowhere */
    WAY_OWN_TUNNEL,      /* into our own TUN device (paths.c) */
    WAY_OTHER_TUNNEL,    /* into a TUN or WireGuard device of somebody else's (nesting.c) */
};

/* How packets leave for an endpoint. Owner and thread: the caller. Nothing to free. */
struct path {
    struct udpring_address source;     /* family 0: the kernel chooses */
    uint32_t interface_index;          /* to name when sending: a VRF, or that of a link-local address. Else 0 */
    uint32_t leaves_by;                /* by which packets leave then. 0: no route, or unknown */
    enum way way;
    uint32_t generation;               /* of the routes that this was found in. See routes_have_changed() */
};

/* Whether an interface is a tunnel. Owner: struct routes. Thread: under its lock. Nothing to free. */
struct known_interface {
    uint32_t interface_index;          /* 0: none */
    bool tunnel;
};

/* Owner: the plane. Thread: the watch thread but where said. Freed by routes_close(). */
struct routes {
    int lookup_fd, notice_fd;          /* rtnetlink sockets of the plane's network namespace. -1: denied */
    int wake_fd;                       /* eventfd: something was asked for, or it is to stop */
    int tun_fd;                        /* the plane's */
    bool no_interface;                 /* the plane has none, so no route leads back to it */
    dev_t space_device;                /* the network namespace that they are in */
    ino_t space_inode;
    struct udpring_reason why;         /* why there are no look-ups. Empty: there are */
    pthread_t thread;
    bool running;                      /* the plane's creator */
    bool stop;                         /* atomic */
    uint32_t tunnel;                   /* atomic: the TUN device's index, 0 where it is in another namespace */

    pthread_mutex_t lock;              /* protects lookup_fd and the members below. Held while the kernel is asked */
    uint32_t sequence;
    uint32_t generation;               /* atomic to read: one more for each round of notices */
    bool hears_links;                  /* notices of links come, and are read */
    struct known_interface known[ROUTES_KNOWN];   /* as asked in this generation. Unused where no such notices come */

    pthread_mutex_t links_lock;        /* never held for long */
    /* By interface. Changed with that lock held and while all workers are stopped. Either is enough to read. */
    struct link_note *vrf_slaves;
    uint32_t vrf_slaves_count, vrf_slaves_capacity;

    pthread_mutex_t asked_lock;        /* protects asked* */
    uint32_t asked[ROUTES_ASKED_MAX];  /* peers to be looked up */
    uint32_t asked_count;
    bool asked_all;

    /* atomic: counters */
    uint64_t lookups, failures, notices, sweeps;
};

/* In the network namespace of the sockets. Where rtnetlink is denied it says so in `why` and still works: sources are then used
 * unchecked. -errno: no memory, no descriptors. */
int routes_open(struct routes *routes, int tun_fd) UR_MUST_CHECK;
void routes_close(struct routes *routes);

/* Any thread but a worker's. */
void routes_choose(struct routes *routes, const struct path_query *query, struct path *path);
/* The interface to name in a reply, without a look-up: a VRF, or that of a link-local address. Else 0. By workers, or with the
 * lock of the links held. */
uint32_t routes_reply_interface(const struct routes *routes, const struct udpring_address *to, const struct udpring_address *from,
                                uint32_t interface_index);
/* Any thread: look up this peer, or (UDPRING_PEER_NONE) all, soon. */
void routes_ask(struct routes *routes, uint32_t peer);
/* The watch thread: no notice will be read. */
void routes_stop_listening(struct routes *routes);
/* The watch thread: notices have come. Discards knowledge about interfaces, because an index may be reused. */
void routes_note_change(struct routes *routes);
/* Any thread: whether notices have come since this was looked up. */
static inline bool routes_have_changed(const struct routes *routes, const struct path *path)
{
    return path->generation != __atomic_load_n(&routes->generation, __ATOMIC_ACQUIRE);
}
/* Whether the TUN device is in our namespace, and under which index. */
void routes_find_tunnel(struct routes *routes);
/* With the links' lock held and all workers standing. */
void routes_note_link(struct routes *routes, const struct link_note *note);
/* Whether that would change anything. */
bool routes_link_changes(const struct routes *routes, const struct link_note *note);
#endif
