/* A peer that is reached through another tunnel of this host, and packets for it that are a tunnel's themselves.
 *
 * A tunnel within another within a third looks so, and so do two tunnels each of which is reached through the other. There each
 * packet comes back encrypted once more. It grows with each turn until it is beyond the MTU, and then its fragments multiply.
 * No packet tells the two cases apart, as the other tunnel has encrypted ours. So Python follows the routes through all tunnels
 * (tunnel/crossed_tunnels.py). Packets that may multiply are dropped until it has answered. */
#include "nesting.h"

#include <netinet/in.h>

#include "command.h"
#include "events.h"

enum nesting {
    NESTING_UNKNOWN,
    NESTING_CLEAR,
    NESTING_LOOPS,
};

/* A data message of a tunnel in UDP, or a fragment, which may be of one. */
static bool may_multiply(const uint8_t *packet, uint32_t length)
{
    bool four = packet[0] >> 4 == 4;
    uint32_t header = four ? (packet[0] & 15u) * 4 : 40;
    uint8_t protocol = packet[four ? 9 : 6];
    if (four ? ((packet[6] & 0x3f) | packet[7]) != 0 : protocol == IPPROTO_FRAGMENT)
        return true;
    return protocol == IPPROTO_UDP && length > header + 8 && packet[header + 8] == WG_TYPE_DATA;
}

/* Several workers may find it due. One asks. */
static void ask(struct worker *worker, struct peer *peer, uint64_t interval)
{
    uint64_t asked = __atomic_load_n(&peer->nesting_asked_ns, __ATOMIC_RELAXED);
    if ((!asked || (int64_t)(worker->now - asked) >= (int64_t)interval) &&
        __atomic_compare_exchange_n(&peer->nesting_asked_ns, &asked, worker->now, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        plane_post(worker, UDPRING_EVENT_NESTED, peer);
}

bool nesting_loops(struct worker *worker, struct peer *peer, const uint8_t *packet, uint32_t length)
{
    if (peer->nesting != NESTING_LOOPS && (!packet || !may_multiply(packet, length)))
        return false;
    ask(worker, peer, peer->nesting == NESTING_CLEAR ? NESTING_CLEAR_NS : NESTING_ASK_NS);
    return peer->nesting != NESTING_CLEAR;
}

/* A clear peer stays clear until the next answer, because routes may change all the time. */
void nesting_ask_anew(struct peer *peer, bool moved)
{
    if (moved)
        peer->nesting = NESTING_UNKNOWN;
    peer->nesting_asked_ns = 0;
}

struct nested_arguments {
    uint32_t peer;
    const struct udpring_address *returns;
};

static int run_nested(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    const struct nested_arguments *arguments = argument;
    struct peer *peer = plane_peer(plane, arguments->peer);
    if (!peer)
        return -ENOENT;
    const struct udpring_address *to = arguments->returns;
    bool loops = to && peer->id == (to->family == AF_INET ? allowed_ips_lookup4(plane->trie, to->ip)
                                                          : allowed_ips_lookup6(plane->trie, to->ip));
    if (peer->way == WAY_OTHER_TUNNEL && peer->nesting_asked_ns) {   /* else the next packet asks anew */
        peer->nesting = loops ? NESTING_LOOPS : NESTING_CLEAR;
        peer->loops = loops;
    }
    return loops;
}

int32_t udpring_plane_nested(struct udpring_plane *plane, uint32_t peer, const struct udpring_address *returns)
{
    struct nested_arguments arguments = {peer, returns};
    return plane_call(plane, run_nested, &arguments);
}
