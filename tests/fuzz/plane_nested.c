/* Peers that are reached through another tunnel of the host. Packets that may multiply are dropped until the control loop has
 * followed the path through all tunnels (native/tunnel/worker/nesting.c). The harness answers in its place. */
#include "plane_model.h"

#include <netinet/in.h>

enum { SLACK_NS = 1000000000 };

/* By slot, for one life. NOT_NESTED: the path leads through no other tunnel. */
static struct nested {
    enum { NOT_NESTED, UNANSWERED, CLEAR, LOOPS } state;
    uint8_t life;
    bool cleared;               /* an answer said CLEAR since the path was last seen to change */
    bool known;                 /* `state` is exact: nothing has changed since the last check */
    struct path path;
    uint64_t known_since_ns;
    uint64_t asked_ns;          /* the last question */
    uint64_t held_ns;           /* when a packet had to be dropped */
    uint8_t returns;            /* chooses where the path ends; 0: nowhere */
} nested[PEERS];

void nested_reset(void)
{
    memset(nested, 0, sizeof(nested));
}

void nested_choose(uint8_t slot, uint8_t returns)
{
    nested[slot].returns = returns;
}

void nested_forget(void)
{
    for (uint32_t slot = 0; slot < PEERS; slot++)
        nested[slot].known = false;
}

static bool same_path(const struct path *one, const struct path *other)
{
    return one->leaves_by == other->leaves_by && one->interface_index == other->interface_index &&
           !memcmp(&one->source, &other->source, sizeof(one->source));
}

/* Call when the harness and the core agree on the paths and nothing is in flight. */
void nested_learn(uint8_t slot, const struct path *path, bool certain)
{
    struct nested *known = &nested[slot];
    bool other_life = known->life != model.present[slot];
    known->life = model.present[slot];
    if (path->way != WAY_OTHER_TUNNEL || known->path.way != path->way || other_life || !same_path(&known->path, path)) {
        known->state = path->way == WAY_OTHER_TUNNEL ? UNANSWERED : NOT_NESTED;
        known->cleared = false;
        known->asked_ns = known->held_ns = 0;
        known->known = false;
    }
    if (!known->known && known->state != NOT_NESTED)
        known->state = UNANSWERED;
    if (!known->known)
        known->known_since_ns = threads_now_ns;
    known->path = *path;
    known->known = certain;
}

bool nested_may_drop(void)
{
    bool may = false;
    for (uint32_t slot = 0; slot < PEERS; slot++)
        may |= nested[slot].known ? nested[slot].state == UNANSWERED || nested[slot].state == LOOPS : kernel.other_tunnel != 0;
    return may;
}

/* A fragment (RFC 791, RFC 8200), or UDP whose payload begins like a data message. */
static bool multiplies(const uint8_t *packet, uint32_t length)
{
    bool v4 = length && packet[0] >> 4 == 4;
    if (length < (v4 ? 20u : 40u))
        return false;
    uint32_t ip = v4 ? (packet[0] & 15u) << 2 : 40;
    uint8_t protocol = packet[v4 ? 9 : 6];
    bool fragment = v4 ? (packet[6] << 8 | packet[7]) & 0x3fff : protocol == 44;
    return fragment || (protocol == 17 && length > ip + 8 && packet[ip + 8] == 4);
}

void nested_read(uint8_t life, const uint8_t *packet, uint32_t length)
{
    struct nested *known = &nested[model.life[life].slot];
    if (known->known && known->life == life && plane_peer(model.plane, model.life[life].id)->endpoint.family &&
        (known->state == LOOPS || (known->state == UNANSWERED && multiplies(packet, length))))
        known->held_ns = threads_now_ns;
}

void nested_leaves(uint8_t life, const uint8_t *packet, uint32_t length)
{
    const struct nested *known = &nested[model.life[life].slot];
    if (!known->known || known->life != life || known->state == NOT_NESTED)
        return;
    CLAIM(known->state != LOOPS, "a packet leaves into a loop through other tunnels");
    CLAIM(known->cleared || !multiplies(packet, length), "what may multiply leaves through another tunnel before it was followed");
}

static struct udpring_address last_endpoint(const struct nested *known)
{
    if (known->returns & 8)
        return (struct udpring_address){.family = AF_INET, .ip = {(uint8_t)(FIRST_NET + known->returns % NETS), 1}};
    return model_address(known->returns % PEERS, known->returns >> 4);
}

static uint8_t owner_of(const struct udpring_address *address)
{
    uint8_t packet[40] = {address->family == AF_INET ? 0x45 : 0x60};
    memcpy(packet + (address->family == AF_INET ? 16 : 24), address->ip, address->family == AF_INET ? 4 : 16);
    return model_owner(packet, sizeof(packet), true);
}

void nested_answer(uint8_t life, uint64_t asked_ns)
{
    struct nested *known = &nested[model.life[life].slot];
    struct udpring_address end = last_endpoint(known);
    bool present = model.present[model.life[life].slot] == life, loops = known->returns && owner_of(&end) == life;
    int32_t answer = udpring_plane_nested(model.plane, model.life[life].id, known->returns ? &end : NULL);
    CLAIM(answer == (present ? loops : -ENOENT), "a path is followed to %d, not %d", answer, loops);
    paths_answered();
    if (!present || known->life != life)
        return;
    known->asked_ns = asked_ns;
    known->cleared |= !loops;
    if (known->state == NOT_NESTED)
        return;
    if (asked_ns >= known->known_since_ns)
        known->state = loops ? LOOPS : CLEAR;
    else
        known->known = false;   /* asked before a change: the core may ignore the answer */
}

void nested_check_quiet(void)
{
    for (uint32_t slot = 0; slot < PEERS; slot++) {
        struct nested *known = &nested[slot];
        if (known->known && known->held_ns)
            CLAIM(known->asked_ns && known->asked_ns + NESTING_ASK_NS + SLACK_NS >= known->held_ns, "a packet was held, and nobody asked");
        known->held_ns = 0;
    }
}
