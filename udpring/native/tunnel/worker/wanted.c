/* Packets to destinations without a peer. Without a directory (UDPRING_PLANE_ASKS) they are dropped. With one:
 *   1. the first packet to a destination is kept and posts one PEER_WANTED event. More are kept behind it
 *   2. the control loop asks the directory. It adds the peer, and its allowed IPs release the packets to it
 *   3. or it answers "no": the packets are dropped, and so are more of that destination for a while, without a question
 * Destinations, packets, bytes, questions a second and time have bounds (limits.h), so a program that sends packets into
 * the interface cannot cause more questions. */
#include "wanted.h"

#include <netinet/in.h>

#include "command.h"
#include "events.h"
#include "staged.h"

/* False: no directory is asked for this destination (multicast, broadcast). */
static bool key_of(const uint8_t *packet, struct wanted_key *key)
{
    if (packet[0] >> 4 == 6) {
        *key = (struct wanted_key){allowed_ips_word(packet + 24), allowed_ips_word(packet + 32), true};
        return packet[24] != 0xff;
    }
    uint32_t address = (uint32_t)packet[16] << 24 | (uint32_t)packet[17] << 16 | (uint32_t)packet[18] << 8 | packet[19];
    *key = (struct wanted_key){(uint64_t)address << 32, 0, false};
    return address < 0xe0000000;
}

static void address_of(const struct wanted_key *key, struct udpring_address *address)
{
    *address = (struct udpring_address){.family = key->v6 ? AF_INET6 : AF_INET};
    for (unsigned i = 0; i < 8; i++) {
        address->ip[i] = (uint8_t)(key->high >> (56 - 8 * i));
        address->ip[8 + i] = (uint8_t)(key->low >> (56 - 8 * i));
    }
}

static void forget(struct worker *worker, struct wanted *entry)
{
    worker->stats.drops[UDPRING_DROP_PEER_REFUSED] += wanted_forget(worker->wanted, entry);
}

/* Posts the question. NULL: there are too many. */
static struct wanted *ask(struct worker *worker, const struct wanted_key *key)
{
    struct wanted_table *table = worker->wanted;
    if (table->asked >= WANTED_MAX || !rate_refill(&table->rate, worker->now, WANTED_QUESTION_NS, WANTED_BURST))
        return NULL;
    struct wanted *entry = wanted_take(table, key, worker->now);
    struct udpring_event *event = entry ? event_next(worker, UDPRING_EVENT_PEER_WANTED, UDPRING_PEER_NONE) : NULL;
    if (!event)
        return NULL;
    address_of(key, &event->source);
    event_post(worker);
    table->rate.tokens--;
    forget(worker, entry);
    entry->key = *key;
    entry->state = WANTED_ASKED;
    entry->until_ns = worker->now + WANTED_NS;
    table->asked++;
    return entry;
}

void wanted_put(struct worker *worker, const uint8_t *packet, uint32_t length)
{
    struct wanted_key key;
    if (!worker->wanted || !key_of(packet, &key)) {
        plane_drop(worker, UDPRING_DROP_NO_PEER);
        return;
    }
    struct wanted *entry = wanted_find(worker->wanted, &key);
    if (entry && worker->now >= entry->until_ns) {
        forget(worker, entry);
        entry = NULL;
    }
    if (entry && entry->state == WANTED_REFUSED) {
        plane_drop(worker, UDPRING_DROP_PEER_REFUSED);
        return;
    }
    if (!entry && !(entry = ask(worker, &key))) {
        plane_drop(worker, UDPRING_DROP_WANTED_FULL);
        return;
    }
    uint32_t gone;
    bool kept = staging_put(&worker->wanted->staged, &entry->staging, packet, length, &gone) == 0;
    worker->stats.drops[UDPRING_DROP_WANTED_FULL] += gone + !kept;
}

static struct peer *peer_of(const struct udpring_plane *plane, const struct wanted_key *key)
{
    struct udpring_address address;
    address_of(key, &address);
    return plane_peer(plane, trie_lookup(plane->trie, address.family, address.ip));
}

/* The packets keep their order, and those that follow go behind them. */
static void release(struct worker *owner, struct wanted *entry, struct peer *peer)
{
    for (uint32_t i = 0; i < entry->staging.count; i++) {
        const struct staged_packet *packet = entry->staging.packets[(entry->staging.head + i) % STAGED_MAX];
        staged_take(owner, peer, packet->data, packet->length);
    }
    (void)wanted_forget(owner->wanted, entry);
}

void wanted_release(struct udpring_plane *plane)
{
    for (uint32_t i = 0; i < plane->worker_count; i++) {
        struct worker *owner = &plane->workers[i];
        for (uint32_t at = 0; owner->wanted && at < WANTED_ENTRIES; at++) {
            struct wanted *entry = &owner->wanted->entries[at];
            struct peer *peer = entry->state == WANTED_FREE ? NULL : peer_of(plane, &entry->key);
            if (peer)
                release(owner, entry, peer);
        }
    }
}

struct refusal {
    bool all;
    struct wanted_key key;
    uint64_t ns;
};

/* The table has no room: it is not remembered, and the next packet asks again. */
static void refuse(struct worker *owner, const struct wanted_key *key, uint64_t ns)
{
    struct wanted *entry = wanted_find(owner->wanted, key);
    if (entry)
        forget(owner, entry);
    if (!ns || !(entry = wanted_take(owner->wanted, key, owner->plane->workers[0].now)))
        return;
    forget(owner, entry);
    entry->key = *key;
    entry->state = WANTED_REFUSED;
    entry->until_ns = owner->plane->workers[0].now + ns;
}

static void forget_refusals(struct worker *owner)
{
    for (uint32_t at = 0; at < WANTED_ENTRIES; at++)
        if (owner->wanted->entries[at].state == WANTED_REFUSED)
            forget(owner, &owner->wanted->entries[at]);
}

static int run_refuse(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    const struct refusal *refusal = argument;
    if (!worker->wanted)
        return -ENOTSUP;
    for (uint32_t i = 0; i < plane->worker_count; i++) {
        if (refusal->all)
            forget_refusals(&plane->workers[i]);
        else
            refuse(&plane->workers[i], &refusal->key, refusal->ns);
    }
    return 0;
}

int32_t udpring_plane_refuse(struct udpring_plane *plane, const struct udpring_address *address, uint64_t ns)
{
    if (address->family != AF_INET && address->family != AF_INET6)
        return -EAFNOSUPPORT;
    bool v6 = address->family == AF_INET6;
    uint64_t word = allowed_ips_word(address->ip);
    struct refusal refusal = {.key = {v6 ? word : word & ~0xffffffffull, v6 ? allowed_ips_word(address->ip + 8) : 0, v6},
                              .ns = ns < WANTED_REFUSED_NS ? ns : WANTED_REFUSED_NS};
    return plane_call(plane, run_refuse, &refusal);
}

int32_t udpring_plane_forget_refusals(struct udpring_plane *plane)
{
    struct refusal refusal = {.all = true};
    return plane_call(plane, run_refuse, &refusal);
}
