/* Events to the control loop. An event that finds the mailbox full is posted later. None is lost, and each has a cause. */
#include "plane_model.h"

enum { DRAINS = 2000, PATIENCE = 200, PAUSE_NS = 10000000 };

/* By life. */
static struct posted {
    uint64_t wanted_ns, nested_ns;      /* of the last HANDSHAKE_WANTED, of the last NESTED */
    uint64_t roamed_ns;
    uint32_t suspensions, suspensions_ended, activities;
    bool suspended;                       /* as last looked at */
    uint64_t unanswered_ns, owed_ns;    /* when its timers were suspended */
    bool loops;
    uint64_t void_ns;                   /* when a command last voided earlier requests */
    uint32_t confirmations;             /* since the last look */
    uint32_t current;                   /* the keypair at that time, by our index */
} posted[LIVES];

static uint32_t device_ends, refusals[2], questions;
static int32_t proofs;                  /* messages with a valid mac2 whose events are not taken yet */
static uint32_t possible_proofs;        /* the same, but no worker has looked at them. mac2 counts only under load */

void events_reset(void)
{
    memset(posted, 0, sizeof(posted));
    memset(refusals, 0, sizeof(refusals));
    device_ends = questions = proofs = 0;
    possible_proofs = 0;
}

static struct peer *peer_of(uint8_t life)
{
    return plane_peer(model.plane, model.life[life].id);
}

static void begin_suspension(uint8_t life, bool suspend)
{
    const struct peer *peer = peer_of(life);
    posted[life].suspensions += suspend;
    posted[life].suspended = suspend;
    posted[life].unanswered_ns = peer->unanswered_since_ns;
    posted[life].owed_ns = peer->owed_since_ns;
}

static void see_suspension(uint8_t life)
{
    bool ended = posted[life].suspended && !peer_of(life)->post_activity;
    posted[life].suspensions_ended += ended;
    posted[life].suspended &= !ended;
}

void events_peer_added(uint8_t life)
{
    posted[life] = (struct posted){0};
    begin_suspension(life, true);
}

void events_look(uint8_t life, bool suspend)
{
    struct udpring_peer_state state;
    see_suspension(life);
    CLAIM(udpring_plane_peer_state(model.plane, model.life[life].id, suspend, &state) == 0, "a state");
    begin_suspension(life, suspend);
}

void events_keys_change(uint8_t life)
{
    posted[life].void_ns = threads_now_ns;
}

void events_address_proved(void)
{
    proofs++;
}

void events_address_not_proved(void)
{
    proofs--;
}

void events_address_may_be_proved(void)
{
    proofs--;
    possible_proofs++;
}

/* ---- taking events ---- */

static uint8_t life_of(const struct udpring_event *event)
{
    for (uint8_t life = 0; life < model.lives; life++)
        if (model.life[life].id == event->peer)
            return life;
    CLAIM(event->peer == UDPRING_PEER_NONE, "an event of peer %u, which never was", event->peer);
    return NOBODY;
}

/* From one address of the peer to another. Family 0: the event was deferred, and says no more. */
static void check_roamed(uint8_t life, const struct udpring_event *event)
{
    uint8_t slot = model.life[life].slot;
    if (!event->source.family)
        return;
    CLAIM(memcmp(&event->source, &event->local, sizeof(event->source)), "a peer moved to where it was");
    CLAIM(event->source.ip[1] % 16 == slot && event->local.family && event->local.ip[1] % 16 == slot, "peer %u moved to an address of another", slot);
    CLAIM(!posted[life].roamed_ns || event->now_ns >= posted[life].roamed_ns + ROAMED_INTERVAL_NS, "posted twice within %d ms", UDPRING_ROAMED_MS);
    posted[life].roamed_ns = event->now_ns;
}

/* The directory has no peer for every second address. For the others a later step may set one. */
static void answer_wanted(const struct udpring_event *event)
{
    CLAIM(model.asks && (event->source.family == AF_INET || event->source.family == AF_INET6), "a peer is wanted for family %u", event->source.family);
    if (questions++ % 2)
        CLAIM(udpring_plane_refuse(model.plane, &event->source, 1000000000) == 0, "a peer is refused");
}

static void take(const struct udpring_event *event)
{
    uint8_t life = life_of(event);
    bool of_peer = event->kind == UDPRING_EVENT_HANDSHAKE_WANTED || event->kind == UDPRING_EVENT_KEY_CONFIRMED ||
                   event->kind == UDPRING_EVENT_ACTIVITY || event->kind == UDPRING_EVENT_PATH || event->kind == UDPRING_EVENT_NESTED ||
                   event->kind == UDPRING_EVENT_ROAMED || event->kind == UDPRING_EVENT_TRAINS ||
                   event->kind == UDPRING_EVENT_PROBE_ANSWERED;
    CLAIM(!of_peer || life != NOBODY, "an event of kind %u and no peer", event->kind);
    CLAIM(event->length <= UDPRING_MESSAGE_MAX, "a message of %u bytes", event->length);
    switch (event->kind) {
    case UDPRING_EVENT_HANDSHAKE:
        model.handshake_events++;
        if (event->flags & UDPRING_EVENT_MAC2_VALID) {
            CLAIM(proofs > 0 || possible_proofs > 0, "a mac2 is valid that nobody could make");
            proofs > 0 ? (void)proofs-- : (void)possible_proofs--;
        }
        break;
    case UDPRING_EVENT_HANDSHAKE_WANTED:
        posted[life].wanted_ns = event->now_ns;
        break;
    case UDPRING_EVENT_KEY_CONFIRMED: posted[life].confirmations++; break;
    case UDPRING_EVENT_ACTIVITY: posted[life].activities++; break;
    case UDPRING_EVENT_PATH: posted[life].loops = event->flags & UDPRING_EVENT_LOOPS; break;
    case UDPRING_EVENT_NESTED:
        posted[life].nested_ns = event->now_ns;
        nested_answer(life, event->now_ns);
        if (peer_of(life))
            posted[life].loops = peer_of(life)->loops;   /* the answer itself reports it */
        break;
    case UDPRING_EVENT_ROAMED: check_roamed(life, event); break;
    case UDPRING_EVENT_TRAINS: break;
    case UDPRING_EVENT_PROBE_ANSWERED: CLAIM(false, "an answer to no probe"); break;
    case UDPRING_EVENT_OVERLOAD: CLAIM(udpring_plane_load_until(model.plane) >= event->now_ns + UNDER_LOAD_NS, "no load"); break;
    case UDPRING_EVENT_PEER_WANTED: answer_wanted(event); break;
    case UDPRING_EVENT_TUN_GONE: CLAIM(kernel.device_gone && !device_ends++, "the device ended"); break;
    case UDPRING_EVENT_COALESCING_REFUSED: CLAIM(event->result >= 0 && event->result < 2 && !refusals[event->result]++, "posted twice"); break;
    default: CLAIM(false, "an event of kind %u", event->kind);
    }
}

/* Takes events until no more come. */
static void drain(void)
{
    struct udpring_event events[32];
    uint32_t count = 1;
    for (uint32_t i = 0; count; i++) {
        CLAIM(i < DRAINS, "events without end");
        threads_run();
        count = udpring_plane_events(model.plane, events, i % 3 ? UR_ARRAY_LENGTH(events) : 5);
        for (uint32_t k = 0; k < count; k++)
            take(&events[k]);
    }
}

static bool any_deferred(void)
{
    bool any = false;
    for (uint32_t i = 0; i < model.plane->worker_count; i++)
        any |= model.plane->workers[i].deferred;
    return any;
}

/* ---- checks ---- */

static void check_suspension(uint8_t life)
{
    const struct peer *peer = peer_of(life);
    const struct posted *known = &posted[life];
    see_suspension(life);
    CLAIM(known->activities >= known->suspensions_ended && known->activities <= known->suspensions, "%u suspensions, %u ended, %u posted",
          known->suspensions, known->suspensions_ended, known->activities);
    if (!known->suspended)
        return;
    CLAIM(!peer->unanswered_since_ns || peer->unanswered_since_ns == known->unanswered_ns, "data of a suspended peer was sent without an event");
    CLAIM(!peer->owed_since_ns || peer->owed_since_ns == known->owed_ns, "data of a suspended peer came without an event");
}

static bool waits_for_slots(const struct peer *peer)
{
    bool waits = false;
    for (uint32_t i = 0; i < model.plane->worker_count; i++)
        waits |= peer->staging[i].ready;
    return waits;
}

static void check_wanted(uint8_t life)
{
    const struct peer *peer = peer_of(life);
    bool sends = peer->current && keypair_can_send(peer->current, threads_now_ns);
    CLAIM(!peer->wanted_ns || peer->wanted_ns == posted[life].wanted_ns, "a handshake is wanted without an event");
    if (staged_count(&model.plane->workers[0], peer) && !sends && peer->endpoint.family && !waits_for_slots(peer))
        CLAIM(peer->wanted_ns || (posted[life].void_ns && posted[life].void_ns >= posted[life].wanted_ns), "packets wait, and no key is requested");
}

static void check_confirmed(uint8_t life)
{
    const struct peer *peer = peer_of(life);
    struct posted *known = &posted[life];
    bool fresh = peer->current && peer->current->local_index != known->current && !peer->current->initiator;
    CLAIM(!fresh || known->confirmations, "a key is confirmed without an event");
    known->confirmations = 0;
    known->current = peer->current ? peer->current->local_index : 0;
}

static void check_deferred(const struct peer *peer)
{
    for (uint32_t i = 0; i < model.plane->worker_count; i++)
        CLAIM(!peer->staging[i].deferred, "events %x wait, and there is room", peer->staging[i].deferred);
}

void events_check_quiet(void)
{
    drain();
    for (uint32_t i = 0; i < PATIENCE && any_deferred(); i++) {   /* a worker that is short of memory pauses */
        threads_pass_time(PAUSE_NS);
        drain();
    }
    CLAIM(proofs == 0, "%d proofs of an address have gone unnoticed", proofs);
    CLAIM(!any_deferred(), "events wait for room, and there is room");
    for (uint32_t slot = 0; slot < PEERS; slot++) {
        uint8_t life = model.present[slot];
        check_deferred(peer_of(life));
        check_suspension(life);
        check_wanted(life);
        check_confirmed(life);
        CLAIM(posted[life].nested_ns >= peer_of(life)->nesting_asked_ns, "a path is to be followed without an event");
        CLAIM(posted[life].loops == peer_of(life)->loops, "a loop began or ended without an event");
    }
}
