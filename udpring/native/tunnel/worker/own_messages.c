/* Messages of this node that the routes lead into its own TUN device. Each would be sealed again and leave as a longer message,
 * without end.
 *
 * The watch thread finds such routes (route_watch.c), but it may wait long for a CPU, or rtnetlink may be denied. So a worker
 * recognises its own messages, without a question to anybody. A packet from the TUN device is one if
 *   1. it is UDP from our own port
 *   2. it goes to the endpoint of a peer
 *   3. its message names the key or the handshake that we have with this peer, by a random number of 32 bits
 * Another tunnel's message through this one may have our port and that endpoint (another namespace, another host behind us),
 * but not this number.
 *
 * The message proves that the route to its peer's endpoint leads into the TUN device. It loops if the allowed IPs lead from that
 * endpoint back to the peer, directly or through other peers whose routes lead there too (paths.c). If not, it is a tunnel
 * within a tunnel, and goes on.
 *
 * Cookie replies hold no number of ours. One that comes back leaves once more, in a data message, which is recognised. Behind
 * the first fragment, fragments are not recognised either. They are shorter than the message, and do not multiply. */
#include "own_messages.h"

#include "events.h"
#include "paths.h"

/* A message in a packet, by its IP and UDP headers. Owner and thread: the caller. Nothing to free. */
struct outer {
    int family;
    const uint8_t *destination;
    uint16_t port;
    const uint8_t *message;     /* 8 bytes and more */
};

/* The header in front of UDP: of IP, and of a first fragment. 0: there is no UDP header. */
static uint32_t header_length(const uint8_t *packet, uint32_t length)
{
    if (packet[0] >> 4 == 4) {
        bool first = ((packet[6] & 0x1f) | packet[7]) == 0;
        return packet[9] == IPPROTO_UDP && first ? (packet[0] & 15u) * 4 : 0;
    }
    if (packet[0] >> 4 != 6 || length < 48)
        return 0;
    if (packet[6] == IPPROTO_UDP)
        return 40;
    bool first = (packet[42] | (packet[43] & 0xf8)) == 0;
    return packet[6] == IPPROTO_FRAGMENT && packet[40] == IPPROTO_UDP && first ? 48 : 0;
}

static bool outer_of(const struct worker *worker, const uint8_t *packet, uint32_t length, struct outer *outer)
{
    uint32_t header = length >= 20 ? header_length(packet, length) : 0;
    if (header < 20 || length < header + 16)
        return false;
    const uint8_t *udp = packet + header;
    bool four = packet[0] >> 4 == 4;
    *outer = (struct outer){
        .family = four ? AF_INET : AF_INET6,
        .destination = packet + (four ? 16 : 24),
        .port = (uint16_t)(udp[2] << 8 | udp[3]),
        .message = udp + 8,
    };
    return (udp[0] << 8 | udp[1]) == plane_port(worker->plane);
}

static struct peer *owner_of(const struct udpring_plane *plane, int family, const uint8_t *ip)
{
    return plane_peer(plane, family == AF_INET ? allowed_ips_lookup4(plane->trie, ip) : allowed_ips_lookup6(plane->trie, ip));
}

static bool has_key(const struct keypair *keypair, uint32_t type, uint32_t number)
{
    return keypair && keypair->data_type == type && keypair->remote_index == number;
}

static bool is_to(const struct worker *worker, const struct peer *peer, const struct outer *outer)
{
    if (peer->endpoint.family != outer->family || peer->endpoint.port != outer->port ||
        memcmp(peer->endpoint.ip, outer->destination, outer->family == AF_INET ? 4 : 16) != 0)
        return false;
    uint32_t type = wg_le32(outer->message), number = wg_le32(outer->message + 4);
    switch (type & ~WG_MARK_AES_256_GCM) {
    case WG_TYPE_DATA:
        return has_key(peer->current, type, number) || has_key(peer->previous, type, number);
    case WG_TYPE_INITIATION:
    case WG_TYPE_RESPONSE: {
        const struct index_entry *entry = index_table_find(&worker->plane->indices, number);
        return entry && entry->peer == peer->id;
    }
    default:
        return false;
    }
}

/* The receiver, if the allowed IPs lead from its endpoint back to it. No other peer can loop. */
static struct peer *receiver_of(const struct worker *worker, const struct outer *outer)
{
    const struct udpring_plane *plane = worker->plane;
    struct peer *peer = owner_of(plane, outer->family, outer->destination);
    for (unsigned hops = 0; hops < LOOP_HOPS_MAX && peer && peer->endpoint.family; hops++) {
        if (is_to(worker, peer, outer))
            return peer;
        peer = owner_of(plane, peer->endpoint.family, peer->endpoint.ip);
    }
    return NULL;
}

bool own_message_loops(struct worker *worker, const uint8_t *packet, uint32_t length)
{
    struct outer outer;
    struct peer *peer = outer_of(worker, packet, length, &outer) ? receiver_of(worker, &outer) : NULL;
    if (!peer)
        return false;
    uint64_t before = stamp_get(&peer->came_back_ns);
    if (!before || (int64_t)(worker->now - before) >= (int64_t)CAME_BACK_LOOK_NS) {   /* another worker's clock may be ahead */
        stamp_put(&peer->came_back_ns, worker->now);
        routes_ask(&worker->plane->routes, peer->id);
    }
    return path_comes_back(worker, peer);
}
