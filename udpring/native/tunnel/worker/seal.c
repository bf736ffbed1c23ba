/* Sealed packets on their way to the send ring.
 *   1. pad, seal with the next nonce straight into a send slot, behind its header: the one copy is the cipher's own
 *   2. packets of one peer and one size that follow each other share a slot: a train (UDP_SEGMENT)
 *   3. push the slot to the send ring. Reap gives it back. A train that the route refuses goes again in pieces */
#include "seal.h"

#include <netinet/in.h>

#include "../tun/ecn.h"

#include "change_queue.h"
#include "events.h"
#include "histogram.h"
#include "paths.h"
#include "spread.h"
#include "stamps.h"
#include "train_doubt.h"

static int slot_take(struct worker *worker)
{
    return worker->out_free_count ? (int)worker->out_free[--worker->out_free_count] : -ENOBUFS;
}

static void slot_give(struct worker *worker, uint32_t slot)
{
    worker->out[slot].in_flight = 0;
    worker->out_free[worker->out_free_count++] = slot;
}

/* Pushes the slot. It is given back at reap, or at once on failure. */
static int slot_push(struct worker *worker, uint32_t slot)
{
    struct out_slot *out = &worker->out[slot];
    int result = worker->fd[out->item.destination.family == AF_INET ? 0 : 1] < 0 ? -EAFNOSUPPORT
                                                                                   : udp_tx_push(worker->tx, &out->item);
    if (ur_unlikely(result < 0)) {
        worker->stats.drops[UDPRING_DROP_SEND_FAILED] += out->packets;
        slot_give(worker, slot);
    }
    return result;
}

static void slot_address(struct worker *worker, uint32_t slot, uint32_t peer, uint8_t tos,
                         const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index)
{
    struct out_slot *out = &worker->out[slot];
    bool sticky = from && from->family == to->family;
    out->peer = peer;
    out->packets = 0;
    out->data = out->broken = false;
    out->item = (struct udp_tx_item){
        .data = out->memory,
        .token = slot,
        .destination = *to,
        .interface_index = interface_index,
        .tos = tos,
        .socket_index = worker->socket_of[to->family == AF_INET ? 0 : 1],
    };
    if (sticky)
        out->item.source = *from;
}

/* For a train whose segments are longer than any that the route took in this session. Waits for its result before more is
 * pushed: the next packets would overtake a refused train, which is sent again in pieces. */
static void ask_route(struct worker *worker, uint32_t id, trains_t segment)
{
    do
        (void)udp_tx_flush(worker->tx);   /* the next send reports a lost socket, too */
    while (seal_reap(worker));
    struct peer *peer = plane_peer(worker->plane, id);
    if (!peer || udp_tx_parked(worker->tx) >= 0)   /* the train waits in a full socket. The next one asks */
        return;
    trains_t taken = __atomic_load_n(&peer->trains, __ATOMIC_RELAXED);
    while (taken < segment &&   /* not TRAINS_REFUSED, which no segment is longer than */
           !__atomic_compare_exchange_n(&peer->trains, &taken, segment, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        ;
    if (taken == TRAINS_NOT_ASKED)
        train_doubt_ask(worker, peer);
}

void seal_push_train(struct worker *worker, uint32_t slot)
{
    uint32_t id = worker->out[slot].peer, packets = worker->out[slot].packets;
    trains_t segment = (trains_t)worker->out[slot].item.segment_size;
    if (ur_unlikely(worker->out[slot].broken)) {
        worker->stats.drops[UDPRING_DROP_SEND_FAILED] += packets;
        slot_give(worker, slot);
        return;
    }
    if (slot_push(worker, slot) < 0 || ur_likely(packets == 1))
        return;
    histogram_count(&worker->stats.send_trains, packets);
    const struct peer *peer = plane_peer(worker->plane, id);
    if (ur_unlikely(peer && __atomic_load_n(&peer->trains, __ATOMIC_RELAXED) < segment) && udp_tx_parked(worker->tx) < 0)
        ask_route(worker, id, segment);
}

void seal_close_train(struct worker *worker)
{
    if (worker->train < 0)
        return;
    uint32_t slot = (uint32_t)worker->train;
    worker->train = -1;
    if (ur_unlikely(worker->spread_pending))
        spread_hold(worker->spread, slot);
    else
        seal_push_train(worker, slot);
}

/* The place for one more sealed packet of `bytes` bytes to this peer: at the end of the open train if UDP_SEGMENT allows it
 * (equal sizes, only the last shorter), else at the start of a free slot. NULL: no slot. */
static uint8_t *train_place(struct worker *worker, struct peer *peer, uint32_t bytes, uint8_t tos)
{
    if (worker->train >= 0) {
        struct out_slot *out = &worker->out[worker->train];
        if (out->peer == peer->id && out->item.tos == tos && bytes <= out->item.segment_size && out->packets < TRAIN_SEGMENTS &&
            out->item.length + bytes <= TRAIN_BYTES && __atomic_load_n(&peer->trains, __ATOMIC_RELAXED) != TRAINS_REFUSED) {
            uint8_t *place = out->memory + out->item.length;
            out->item.length += bytes;
            out->packets++;
            return place;
        }
        seal_close_train(worker);
    }
    int slot = slot_take(worker);
    if (ur_unlikely(slot < 0))
        return NULL;
    slot_address(worker, (uint32_t)slot, peer->id, tos, &peer->endpoint, &peer->source, peer->interface_index);
    worker->train = slot;
    struct out_slot *out = &worker->out[slot];
    out->item.segment_size = out->item.length = bytes;
    out->packets = 1;
    return out->memory;
}

static uint64_t fetch_add(bool shared, uint64_t *value, uint64_t more)
{
    if (shared)
        return __atomic_fetch_add(value, more, __ATOMIC_RELAXED);
    uint64_t before = *value;
    *value = before + more;
    return before;
}

/* The next nonce. It is spent, even if the packet of `full` bytes is not sent. *old: the key has carried so much that a new one
 * should follow. False: it may carry no more. */
static bool next_counter(const struct worker *worker, struct keypair *keypair, uint32_t full, uint64_t *counter, bool *old)
{
    const struct key_limits *limits = &keypair->limits;
    bool shared = plane_shared(worker->plane), good = true;
    *counter = fetch_add(shared, &keypair->counter, 1);
    *old = *counter >= limits->rekey_messages;
    if (limits->reject_blocks != UINT64_MAX) {
        uint64_t blocks = fetch_add(shared, &keypair->blocks, (full + 15) / 16 + 1);
        *old |= blocks >= limits->rekey_blocks;
        good = blocks < limits->reject_blocks;
    }
    return good && *counter < limits->reject_messages;
}

/* Takes back the place that train_place() gave last. */
static void train_unplace(struct worker *worker, uint32_t bytes)
{
    struct out_slot *out = &worker->out[worker->train];
    out->item.length -= bytes;
    if (--out->packets == 0) {
        slot_give(worker, (uint32_t)worker->train);
        worker->train = -1;
    }
}

/* As seal_reserve(), but the train stays open. *place: NULL with any other result than 0. */
static inline __attribute__((always_inline)) int reserve(struct worker *worker, struct peer *peer, uint32_t full, uint8_t tos,
                                                         uint8_t **place, uint64_t *counter, bool *old)
{
    uint32_t bytes = WG_DATA_HEADER + full + WG_TAG;
    *place = train_place(worker, peer, bytes, tos);
    if (ur_unlikely(!*place))
        return -ENOBUFS;
    if (ur_likely(next_counter(worker, peer->current, full, counter, old)))
        return 0;
    train_unplace(worker, bytes);
    *place = NULL;
    return -EKEYEXPIRED;
}

/* Only the last of a train may be shorter. */
static inline void close_if_short(struct worker *worker, uint32_t bytes)
{
    if (bytes < worker->out[worker->train].item.segment_size)
        seal_close_train(worker);
}

int seal_reserve(struct worker *worker, struct peer *peer, uint32_t length, uint8_t tos, struct spread_packet *packet, bool *old)
{
    packet->full = seal_padded(worker, length);
    packet->failed = false;
    int result = reserve(worker, peer, packet->full, tos, &packet->place, &packet->counter, old);
    if (ur_unlikely(result < 0))
        return result;
    worker->out[worker->train].data = true;
    close_if_short(worker, WG_DATA_HEADER + packet->full + WG_TAG);
    return 0;
}

void seal_reserved(struct worker *worker, struct peer *peer, bool old)
{
    const struct keypair *keypair = peer->current;
    peer_stamp_sent(worker, peer);
    /* keep_key_fresh: by count on either side, by time on the initiator's alone */
    if (ur_unlikely(old || (keypair->initiator && keypair_age(keypair, worker->now) >= WG_REKEY_AFTER_TIME_NS)))
        (void)plane_want_handshake(worker, peer);   /* where the mailbox is full, the next packet asks */
}

int seal_packet(struct worker *worker, struct peer *peer, uint8_t *packet, uint32_t length)
{
    struct keypair *keypair = peer->current;
    uint32_t full = seal_padded(worker, length);
    uint32_t bytes = WG_DATA_HEADER + full + WG_TAG;
    uint64_t counter;
    uint8_t *place;
    bool old;
    /* Data goes with DSCP 0 and the inner ECN field (kernel: DSCP for handshakes only). */
    int result = reserve(worker, peer, full, length ? ecn_of(packet) : ECN_NOT_ECT, &place, &counter, &old);
    if (ur_unlikely(result < 0)) {
        if (result == -ENOBUFS)
            return result;
        plane_drop(worker, UDPRING_DROP_SEND_FAILED);
        return 0;
    }
    if (ur_unlikely(seal_into(keypair->sending[worker->number], keypair, packet, length, full, place, counter) < 0)) {
        train_unplace(worker, bytes);   /* nothing of it may leave */
        plane_drop(worker, UDPRING_DROP_SEND_FAILED);
        return 0;
    }
    worker->out[worker->train].data |= length != 0;
    close_if_short(worker, bytes);
    seal_reserved(worker, peer, old);
    return 0;
}

/* segment 0: one message. */
static int push_messages(struct worker *worker, struct peer *peer, const uint8_t *bytes, uint32_t length, uint32_t segment,
                         uint8_t tos, const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index)
{
    if (!to) {
        if (!peer->endpoint.family)
            return -EDESTADDRREQ;
        to = &peer->endpoint;
        from = &peer->source;
        interface_index = peer->interface_index;
    }
    if (peer && peer_loops(worker, peer, NULL, 0)) {
        plane_drop(worker, UDPRING_DROP_ROUTING_LOOP);
        return 0;
    }
    int slot = slot_take(worker);
    if (slot < 0)
        return slot;
    slot_address(worker, (uint32_t)slot, peer ? peer->id : UDPRING_PEER_NONE, tos, to, from, interface_index);
    struct out_slot *out = &worker->out[slot];
    memcpy(out->memory, bytes, length);
    out->item.length = length;
    out->item.segment_size = segment;
    out->packets = segment ? length / segment : 1;
    uint32_t packets = out->packets;
    int result = slot_push(worker, (uint32_t)slot);
    if (result == 0 && packets > 1)
        histogram_count(&worker->stats.send_trains, packets);
    if (result == 0 && peer)
        peer_stamp_sent(worker, peer);
    return result;
}

int seal_message(struct worker *worker, struct peer *peer, const uint8_t *bytes, uint32_t length, uint8_t tos,
                 const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index)
{
    return push_messages(worker, peer, bytes, length, 0, tos, to, from, interface_index);
}

int seal_train(struct worker *worker, struct peer *peer, const uint8_t *bytes, uint32_t length, uint32_t segment)
{
    return push_messages(worker, peer, bytes, length, segment, 0, NULL, NULL, 0);
}

/* The route takes no trains of this size (a smaller MTU, a device without checksum offload): the same packets once more,
 * each by itself, and no trains to this peer until it roams or has a new key. Their slot comes back with the last of them.
 * false: none could be sent, which is counted. */
static bool resend_split(struct worker *worker, uint32_t slot)
{
    struct out_slot *out = &worker->out[slot];
    struct peer *peer = plane_peer(worker->plane, out->peer);
    if (peer)
        __atomic_store_n(&peer->trains, TRAINS_REFUSED, __ATOMIC_RELAXED);
    struct udp_tx_item item = out->item;
    uint32_t size = item.segment_size, left = item.length;
    item.segment_size = 0;
    worker->stats.trains_split++;
    for (; left; item.data += item.length, left -= item.length) {
        item.length = left < size ? left : size;
        if (udp_tx_push(worker->tx, &item) == 0)
            out->in_flight++;
        else
            plane_drop(worker, UDPRING_DROP_SEND_FAILED);
    }
    return out->in_flight != 0;
}

static void lose_source(struct worker *worker, const struct change *lost)
{
    struct peer *peer = plane_peer(worker->plane, lost->peer);
    if (peer)
        peer_source_lost(worker->plane, peer, &lost->local);
}

bool seal_reap(struct worker *worker)
{
    UR_UNINITIALIZED struct udp_tx_done done[64];
    unsigned count;
    bool again = false;
    do {
        count = udp_tx_reap(worker->tx, done, UR_ARRAY_LENGTH(done));
        for (unsigned i = 0; i < count; i++) {
            uint32_t slot = (uint32_t)done[i].token;
            struct out_slot *out = &worker->out[slot];
            if (ur_unlikely(done[i].flags & UDP_TX_SOURCE_DROPPED)) {
                struct change lost = {.kind = CHANGE_SOURCE_LOST, .peer = out->peer, .local = out->item.source};
                if (!change_queued(worker, &lost))
                    lose_source(worker, &lost);
            }
            if (ur_unlikely(done[i].result < 0)) {
                if (done[i].flags & UDP_TX_SPLIT) {
                    if (resend_split(worker, slot)) {
                        again = true;
                        continue;
                    }
                } else {
                    worker->stats.drops[UDPRING_DROP_SEND_FAILED] += out->in_flight ? 1 : out->packets;
                }
            } else {
                peer_stamp_taken(worker, out->peer, (uint32_t)done[i].result, out->data, out->packets > 1);
            }
            if (ur_unlikely(out->in_flight > 1)) {
                out->in_flight--;
                continue;
            }
            slot_give(worker, slot);
        }
    } while (count == UR_ARRAY_LENGTH(done));
    return again;
}
