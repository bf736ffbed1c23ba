/* How packets leave for a peer: where it was heard, what the routing tables say (routes.h), and routing loops. */
#include "paths.h"

#include "events.h"
#include "nesting.h"

void path_query_of(const struct udpring_plane *plane, int family, struct path_query *query)
{
    *query = (struct path_query){
        .mark = plane->fwmark,
        .bound_to = plane->bound_to[family == AF_INET ? 0 : 1],
        .port = plane_port(plane),
    };
}

void peer_roam(struct udpring_plane *plane, struct peer *peer, const struct udpring_address *endpoint,
               const struct udpring_address *local, uint32_t interface_index)
{
    if (memcmp(&peer->endpoint, endpoint, sizeof(*endpoint)) != 0) {
        peer->endpoint = *endpoint;
        peer_trains_anew(peer);
        peer->came_back_ns = 0;
        nesting_ask_anew(peer, true);
    }
    peer->heard_on = *local;
    peer->heard_by = interface_index;
    peer->source = *local;
    peer->interface_index = routes_reply_interface(&plane->routes, endpoint, local, interface_index);
    peer->path_version++;
}

void peer_ask_path(struct udpring_plane *plane, struct peer *peer)
{
    if (peer->check_pending)
        return;
    peer->check_pending = true;
    routes_ask(&plane->routes, peer->id);
}

void peer_forget_source(struct udpring_plane *plane, struct peer *peer)
{
    memset(&peer->source, 0, sizeof(peer->source));
    memset(&peer->heard_on, 0, sizeof(peer->heard_on));
    peer->interface_index = routes_reply_interface(&plane->routes, &peer->endpoint, &peer->source, peer->heard_by);
    peer->path_version++;
}

void peer_source_lost(struct udpring_plane *plane, struct peer *peer, const struct udpring_address *source)
{
    if (memcmp(&peer->source, source, sizeof(*source)) != 0)
        return;   /* it has another by now */
    memset(&peer->source, 0, sizeof(peer->source));
    memset(&peer->heard_on, 0, sizeof(peer->heard_on));
    peer->heard_by = peer->interface_index = 0;
    peer->path_version++;
    peer_ask_path(plane, peer);
}

/* Data was sent and not answered, or cannot be sent. */
static bool waits(const struct worker *worker, const struct peer *peer)
{
    return peer->unanswered_since_ns || peer->wanted_ns || staged_count(worker, peer);
}

/* A message to the peer came out of our own TUN device a moment ago. */
static bool came_back(const struct worker *worker, const struct peer *peer)
{
    uint64_t when = stamp_get(&peer->came_back_ns);
    return ur_unlikely(when != 0) && (int64_t)(worker->now - when) < (int64_t)CAME_BACK_NS;
}

void peer_take_path(struct worker *worker, struct peer *peer, const struct path *path, bool routes_changed)
{
    bool moved = peer->leaves_by != path->leaves_by || peer->interface_index != path->interface_index ||
                 memcmp(&peer->source, &path->source, sizeof(path->source)) != 0;
    peer->source = path->source;
    peer->interface_index = path->interface_index;
    peer->leaves_by = path->leaves_by;
    peer->way = (uint8_t)path->way;
    if (moved || routes_changed)
        nesting_ask_anew(peer, moved);
    if (moved)
        peer_trains_anew(peer);   /* another way may take them */
    /* Its messages may prove more than the look-up, which may be older, or unaware of a packet filter's mark. */
    bool ends = peer->loops && path->way == WAY_OUT && (moved || !came_back(worker, peer));
    if ((moved && routes_changed && path->leaves_by && waits(worker, peer)) || ends) {
        peer->loops = peer->loops && !ends;
        plane_post(worker, UDPRING_EVENT_PATH, peer);
    }
}

/* Packets to the peer go to another peer of this tunnel (onion routing), and maybe on to a third. True: they never get out. */
static bool comes_back(const struct worker *worker, const struct peer *peer)
{
    const struct udpring_plane *plane = worker->plane;
    const struct peer *next = peer;
    for (unsigned hops = 0; hops < LOOP_HOPS_MAX; hops++) {
        const uint8_t *ip = next->endpoint.ip;
        next = plane_peer(plane, next->endpoint.family == AF_INET ? allowed_ips_lookup4(plane->trie, ip)
                                                                 : allowed_ips_lookup6(plane->trie, ip));
        if (!next || !next->endpoint.family || (next->way != WAY_OWN_TUNNEL && !came_back(worker, next)))
            return false;
        if (next == peer)
            return true;
    }
    return true;   /* into a loop of others, or through more tunnels than any packet has room for */
}

bool path_comes_back(struct worker *worker, struct peer *peer)
{
    bool loops = comes_back(worker, peer);
    if (ur_unlikely(__atomic_load_n(&peer->loops, __ATOMIC_RELAXED) != loops) &&
        __atomic_exchange_n(&peer->loops, loops, __ATOMIC_RELAXED) != loops)
        plane_post(worker, UDPRING_EVENT_PATH, peer);
    return loops;
}

bool path_loops(struct worker *worker, struct peer *peer, const uint8_t *packet, uint32_t length)
{
    return peer->way == WAY_OTHER_TUNNEL ? nesting_loops(worker, peer, packet, length) : path_comes_back(worker, peer);
}
