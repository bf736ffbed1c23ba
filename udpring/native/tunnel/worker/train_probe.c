/* Probes of a route that may lose trains while single datagrams pass (docs/design/trains.md). On the wire there are only keepalives:
 *   1. a probe is three keepalives with counters of one group of four: 0, 1, 2 (one train) or 4, 5, 6 (sent singly), modulo 8
 *   2. a udpring node that hears all three of a group answers with a keepalive that has the fourth counter: 3 or 7
 *   3. the node that sent the probe posts PROBE_ANSWERED. Python decides (udpring/tunnel/train_probes.py)
 * Other implementations ignore keepalives. Nothing here runs for a packet with data. */
#include "train_probe.h"

#include "command.h"
#include "events.h"
#include "seal.h"

enum {
    PROBE_GROUP = 4,
    PROBE_MESSAGES = PROBE_GROUP - 1,
    PROBE_COUNTERS = 2 * PROBE_GROUP,   /* of both groups */
    PROBE_ALL = (1 << PROBE_MESSAGES) - 1,
};
#define PROBE_NS NS_PER_S               /* other implementations never send three keepalives in this time */
#define PROBE_ANSWER_NS (4 * NS_PER_S)  /* a later answer counts for nothing */

/* Takes counters that nobody else uses, and gives the first of the two groups. Those that are not sent are skipped. */
static int take_groups(struct keypair *keypair, uint64_t *first)
{
    uint64_t before = __atomic_load_n(&keypair->counter, __ATOMIC_RELAXED), after;
    do {
        *first = (before + PROBE_COUNTERS - 1) / PROBE_COUNTERS * PROBE_COUNTERS;
        after = *first + PROBE_COUNTERS;
        if (after >= keypair->limits.rekey_messages)
            return -ENOKEY;
    } while (!__atomic_compare_exchange_n(&keypair->counter, &before, after, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return 0;
}

static int seal_empty(const struct worker *worker, struct keypair *keypair, uint64_t counter, uint8_t *place)
{
    struct wg_data_header header = {
        .type = htole32(keypair->data_type),
        .receiver = htole32(keypair->remote_index),
        .counter = htole64(counter),
    };
    memcpy(place, &header, sizeof(header));
    struct aead_op op = {.in = place + WG_DATA_HEADER, .out = place + WG_DATA_HEADER, .length = 0, .counter = counter};
    struct aead_key *key = keypair->sending[worker->number];
    key->impl->seal(key, &op, 1);
    if (keypair->limits.reject_blocks != UINT64_MAX)
        __atomic_fetch_add(&keypair->blocks, 1, __ATOMIC_RELAXED);
    return op.result < 0 ? -EIO : 0;
}

/* Sends `count` keepalives with the counters from `first` on: each by itself, or as one train. */
static int send_empties(struct worker *worker, struct peer *peer, uint64_t first, uint32_t count, bool train)
{
    uint8_t bytes[PROBE_MESSAGES * WG_DATA_MIN];
    int result = 0;
    for (uint32_t i = 0; i < count && result == 0; i++)
        result = seal_empty(worker, peer->current, first + i, bytes + i * WG_DATA_MIN);
    if (train)
        return result < 0 ? result : seal_train(worker, peer, bytes, count * WG_DATA_MIN, WG_DATA_MIN);
    for (uint32_t i = 0; i < count && result == 0; i++)
        result = seal_message(worker, peer, bytes + i * WG_DATA_MIN, WG_DATA_MIN, 0, NULL, NULL, 0);
    return result;
}

static int groups_of(const struct worker *worker, const struct peer *peer, uint64_t *first)
{
    if (!keypair_can_send(peer->current, worker->now))
        return -ENOKEY;
    return peer->endpoint.family ? take_groups(peer->current, first) : -EDESTADDRREQ;
}

/* Whether the rest of this counter's group was never heard, as before an answer. An ordinary keepalive follows others. */
static bool follows_none(const struct worker *worker, struct keypair *keypair, uint64_t counter)
{
    bool shared = plane_shared(worker->plane), none = true;
    if (shared)
        pthread_mutex_lock(&keypair->window_lock);
    for (uint64_t before = 1; before <= PROBE_MESSAGES; before++)
        none &= replay_check(&keypair->window, counter - before);
    if (shared)
        pthread_mutex_unlock(&keypair->window_lock);
    return none;
}

static void answered(struct worker *worker, struct peer *peer, uint32_t kind)
{
    uint8_t awaited = __atomic_fetch_and(&peer->probe_awaits, (uint8_t)~(1u << kind), __ATOMIC_RELAXED);
    if (!(awaited & 1u << kind) || worker->now >= stamp_get(&peer->probed_ns) + PROBE_ANSWER_NS)
        return;
    __atomic_store_n(&peer->probe_answers, true, __ATOMIC_RELAXED);
    struct udpring_event *event = event_next(worker, UDPRING_EVENT_PROBE_ANSWERED, peer->id);
    if (!event)
        return;   /* counted as lost: the probe stays unanswered */
    event->result = (int32_t)kind;
    event_post(worker);
}

void train_probe_heard(struct worker *worker, struct peer *peer, struct keypair *keypair, uint64_t counter)
{
    uint32_t place = (uint32_t)(counter % PROBE_GROUP);
    uint32_t kind = counter % PROBE_COUNTERS < PROBE_GROUP ? UDPRING_PROBE_TRAIN : UDPRING_PROBE_SINGLES;
    if (place == PROBE_MESSAGES) {
        if (__atomic_load_n(&peer->probe_awaits, __ATOMIC_RELAXED) && follows_none(worker, keypair, counter))
            answered(worker, peer, kind);
        return;
    }
    uint64_t group = counter / PROBE_GROUP + 1;   /* 0: none yet */
    if (stamp_get(&peer->probe_group) != group) {
        stamp_put(&peer->probe_group, group);
        stamp_put(&peer->probe_ns, worker->now);
        __atomic_store_n(&peer->probe_seen, 0, __ATOMIC_RELAXED);
    }
    uint8_t bit = (uint8_t)(1u << place);
    uint8_t before = __atomic_fetch_or(&peer->probe_seen, bit, __ATOMIC_RELAXED);
    uint64_t first;
    if (before != PROBE_ALL && (before | bit) == PROBE_ALL && worker->now < stamp_get(&peer->probe_ns) + PROBE_NS &&
        groups_of(worker, peer, &first) == 0)
        (void)send_empties(worker, peer, first + kind * PROBE_GROUP + PROBE_MESSAGES, 1, false);   /* no slot: like a lost one */
}

/* ---- commands ---- */

static int run_probe(struct worker *worker, void *argument)
{
    struct peer *peer = plane_peer(worker->plane, *(const uint32_t *)argument);
    if (!peer)
        return -ENOENT;
    if (peer->sends_singly)
        return -EPERM;
    uint64_t first;
    int result = groups_of(worker, peer, &first);
    if (result < 0)
        return result;
    stamp_put(&peer->probed_ns, worker->now);
    stamp_put(&peer->trains_asked_ns, worker->now);
    __atomic_store_n(&peer->probe_awaits, 1u << UDPRING_PROBE_SINGLES | 1u << UDPRING_PROBE_TRAIN, __ATOMIC_RELAXED);
    __atomic_store_n(&peer->probe_answers, false, __ATOMIC_RELAXED);
    result = send_empties(worker, peer, first, PROBE_MESSAGES, true);
    return result < 0 ? result : send_empties(worker, peer, first + PROBE_GROUP, PROBE_MESSAGES, false);
}

int32_t udpring_plane_peer_probe(struct udpring_plane *plane, uint32_t peer)
{
    return plane_call(plane, run_probe, &peer);
}

struct lost_arguments {
    uint32_t peer;
    bool lost;
};

static int run_lost(struct worker *worker, void *argument)
{
    const struct lost_arguments *arguments = argument;
    struct peer *peer = plane_peer(worker->plane, arguments->peer);
    if (!peer)
        return -ENOENT;
    peer->trains_lost = arguments->lost;
    if (arguments->lost)
        __atomic_store_n(&worker->plane->some_singly, true, __ATOMIC_RELAXED);
    peer_trains_anew(peer);
    return 0;
}

int32_t udpring_plane_peer_trains_lost(struct udpring_plane *plane, uint32_t peer, int32_t lost)
{
    struct lost_arguments arguments = {peer, lost != 0};
    return plane_call(plane, run_lost, &arguments);
}
