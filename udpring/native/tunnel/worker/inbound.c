/* In: UDP -> TUN.
 *   1. type and length. Handshake messages go to the control loop (admission.c)
 *   2. receiver index -> keypair -> its peer. Marked for another cipher, too old, or a counter seen before: drop
 *   3. open in place. Only an authentic packet changes window, keypairs, endpoint and stamps
 *   4. check inner length and version. The allowed-IPs trie must give this peer for the inner source
 *      copy congestion marks from the outer header to the inner one                (ecn.h)
 *   5. coalesce with earlier packets of its flow, write to the TUN device   (coalesce.c)
 *      without a device: into the queue to the program                      (packets/ports.c) */
#include "inbound.h"

#include "../tun/ecn.h"

#include "admission.h"
#include "changes.h"
#include "events.h"
#include "histogram.h"
#include "stamps.h"
#include "train_probe.h"

/* Who sent a data message, if it is authentic. */
struct sender {
    struct peer *peer;
    struct keypair *keypair;
    uint64_t counter;
};

/* The length the inner header claims, or 0 when it is no valid IPv4 or IPv6 packet of at most `room` bytes.
 * *source: the peer whose allowed IPs hold the inner source address. */
static uint32_t inner_length(const struct worker *worker, const uint8_t *packet, uint32_t room, uint32_t *source)
{
    uint32_t length;
    if (room >= 20 && packet[0] >> 4 == 4) {
        length = (uint32_t)packet[2] << 8 | packet[3];
        if (length < 20 || length > room)
            return 0;
        *source = allowed_ips_lookup4(worker->plane->trie, packet + 12);
        return length;
    }
    if (room >= 40 && packet[0] >> 4 == 6) {
        length = ((uint32_t)packet[4] << 8 | packet[5]) + 40;
        if (length > room)
            return 0;
        *source = allowed_ips_lookup6(worker->plane->trie, packet + 8);
        return length;
    }
    return 0;
}

/* To the program, or nowhere. */
static UR_NOINLINE void deliver_elsewhere(struct worker *worker, const struct peer *peer, const uint8_t *packet, uint32_t length)
{
    if (!worker->port) {
        plane_drop(worker, UDPRING_DROP_TUN_FULL);
        return;
    }
    if (packet_port_give(worker->port, packet, length, peer->id) < 0) {
        plane_drop(worker, UDPRING_DROP_PROGRAM_FULL);
        return;
    }
    worker->stats.tun_packets_out++;
    worker->stats.tun_bytes_out += length;
}

static void deliver(struct worker *worker, struct peer *peer, uint8_t *packet, uint32_t room, uint8_t outer_tos)
{
    uint32_t source = UDPRING_PEER_NONE;
    uint32_t length = inner_length(worker, packet, room, &source);
    if (ur_unlikely(!length)) {
        plane_drop(worker, UDPRING_DROP_BAD_INNER);
        return;
    }
    if (ur_unlikely(source != peer->id)) {
        plane_drop(worker, UDPRING_DROP_SPOOFED);
        return;
    }
    if (ur_unlikely(!ecn_decapsulate(packet, outer_tos))) {
        plane_drop(worker, UDPRING_DROP_ECN);
        return;
    }
    if (ur_unlikely(worker->no_tun)) {
        deliver_elsewhere(worker, peer, packet, length);
        return;
    }
    worker->stats.tun_packets_out++;
    worker->stats.tun_bytes_out += length;
    bool udp = plane_is_udp(packet, length);
    worker->datagrams_out += udp;
    worker->charge += udp ? time_slice_charge(length) : 0;
    coalesce_packet(&worker->coalescer, packet, length);
}

static bool same_address(const struct udpring_address *one, const struct udpring_address *other)
{
    return memcmp(one, other, sizeof(*one)) == 0;
}

/* Changes that every authentic data packet makes, also an empty one. */
static void accepted(struct worker *worker, struct peer *peer, struct keypair *keypair,
                     const struct udpring_packet *packet, uint32_t length)
{
    if (ur_unlikely(!same_address(&peer->endpoint, &packet->source) || !same_address(&peer->heard_on, &packet->local) ||
                    peer->heard_by != packet->interface_index)) {
        struct change roam = {.kind = CHANGE_ROAM, .peer = peer->id, .endpoint = packet->source, .local = packet->local,
                              .interface_index = packet->interface_index};
        plane_change(worker, &roam);
    }
    bool asks = keypair == peer->current && keypair->initiator &&
                keypair_age(keypair, worker->now) >= WG_REKEY_ON_RECEIVE_NS;
    if (ur_unlikely(asks) && !__atomic_exchange_n(&keypair->asked_on_receive, true, __ATOMIC_RELAXED) &&
        !plane_want_handshake(worker, peer))
        __atomic_store_n(&keypair->asked_on_receive, false, __ATOMIC_RELAXED);   /* not posted: the next packet tries again */
    peer_stamp_received(worker, peer, length);
    if (ur_unlikely(keypair == peer->next)) {
        struct change confirm = {.kind = CHANGE_CONFIRM, .peer = peer->id, .index = keypair->local_index};
        plane_change(worker, &confirm);   /* may free the previous keypair, not this one */
    }
}

/* The window is one for all workers. */
static bool window_takes(struct worker *worker, struct keypair *keypair, uint64_t counter, bool update)
{
    bool shared = plane_shared(worker->plane);
    if (shared)
        pthread_mutex_lock(&keypair->window_lock);
    bool fresh = update ? replay_update(&keypair->window, counter) : replay_check(&keypair->window, counter);
    if (shared)
        pthread_mutex_unlock(&keypair->window_lock);
    return fresh;
}

/* Of a data message, before it is opened. False: it is to be dropped, for this reason. */
static inline __attribute__((always_inline)) bool sender_of(struct worker *worker, const uint8_t *message, struct sender *sender,
                                                            enum udpring_drop *reason)
{
    struct index_entry *entry = index_table_find(&worker->plane->indices, wg_le32(message + 4));
    struct keypair *keypair = entry ? entry->keypair : NULL;
    *sender = (struct sender){keypair ? plane_peer(worker->plane, entry->peer) : NULL, keypair, wg_le64(message + 8)};
    if (ur_unlikely(!sender->peer))
        *reason = UDPRING_DROP_UNKNOWN_INDEX;
    else if (ur_unlikely(wg_le32(message) != keypair->data_type))
        *reason = UDPRING_DROP_CIPHER_MISMATCH;
    else if (ur_unlikely(keypair_age(keypair, worker->now) >= WG_REJECT_AFTER_TIME_NS ||
                         sender->counter >= keypair->limits.reject_messages))
        *reason = UDPRING_DROP_KEY_EXPIRED;
    else if (ur_unlikely(!window_takes(worker, keypair, sender->counter, false)))
        *reason = UDPRING_DROP_REPLAYED;
    else
        return true;
    return false;
}

/* The state of a message that a job may have opened. */
enum opened { NOT_OPENED, OPENED, OPEN_FAILED };

/* This and message() are inlined for each caller, so inbound_packet() does not pay for `opened`. */
static inline __attribute__((always_inline)) void data_message(struct worker *worker, struct udpring_packet *packet,
                                                               uint8_t *message, uint32_t length, enum opened opened)
{
    struct sender sender;
    enum udpring_drop reason;
    if (ur_unlikely(!sender_of(worker, message, &sender, &reason))) {
        plane_drop(worker, reason);
        return;
    }
    struct peer *peer = sender.peer;
    struct keypair *keypair = sender.keypair;
    uint64_t counter = sender.counter;
    uint8_t *inner = message + WG_DATA_HEADER;
    if (opened == NOT_OPENED) {
        struct aead_op op = {.in = inner, .out = inner, .length = length - WG_DATA_HEADER, .counter = counter};
        struct aead_key *key = keypair->receiving[worker->number];
        key->impl->open(key, &op, 1);
        opened = op.result < 0 ? OPEN_FAILED : OPENED;
    }
    if (ur_unlikely(opened == OPEN_FAILED)) {
        plane_drop(worker, UDPRING_DROP_UNAUTHENTICATED);
        return;
    }
    if (ur_unlikely(!window_takes(worker, keypair, counter, true))) {
        plane_drop(worker, UDPRING_DROP_REPLAYED);
        return;
    }
    accepted(worker, peer, keypair, packet, length);
    if (length == WG_DATA_MIN) {   /* a keepalive */
        train_probe_heard(worker, peer, keypair, counter);
        return;
    }
    peer_stamp_data_received(worker, peer);
    deliver(worker, peer, inner, length - WG_DATA_MIN, packet->tos);
}

static void handshake_message(struct worker *worker, struct udpring_packet *packet, uint8_t *bytes, uint32_t length,
                              uint32_t expected, struct rate *rate)
{
    if (length == expected)
        plane_post_handshake(worker, packet, bytes, length, rate);
    else
        plane_drop(worker, UDPRING_DROP_TOO_SHORT);
}

static inline __attribute__((always_inline)) void message(struct worker *worker, struct udpring_packet *packet, uint8_t *bytes,
                                                          uint32_t length, struct rate *rate, enum opened opened)
{
    if (ur_unlikely(length < WG_DATA_MIN)) {
        plane_drop(worker, UDPRING_DROP_TOO_SHORT);
        return;
    }
    /* Type and reserved bytes are one little-endian word: anything but a marking in the reserved bytes is an unknown type. */
    switch (wg_le32(bytes)) {
    case WG_TYPE_DATA:
    case WG_TYPE_DATA | WG_MARK_AES_256_GCM:
        data_message(worker, packet, bytes, length, opened);
        return;
    case WG_TYPE_INITIATION:
    case WG_TYPE_INITIATION | WG_MARK_AES_256_GCM:
        handshake_message(worker, packet, bytes, length, WG_INITIATION_BYTES, rate);
        return;
    case WG_TYPE_RESPONSE:
    case WG_TYPE_RESPONSE | WG_MARK_AES_256_GCM:
        handshake_message(worker, packet, bytes, length, WG_RESPONSE_BYTES, rate);
        return;
    case WG_TYPE_COOKIE_REPLY:
    case WG_TYPE_COOKIE_REPLY | WG_MARK_AES_256_GCM:
        handshake_message(worker, packet, bytes, length, WG_COOKIE_REPLY_BYTES, rate);
        return;
    default:
        plane_drop(worker, UDPRING_DROP_BAD_TYPE);
    }
}

void inbound_packet(struct worker *worker, struct udpring_packet *packet, struct rate *rate)
{
    if (ur_unlikely(packet->flags & UDPRING_PACKET_TRUNCATED)) {
        plane_drop(worker, UDPRING_DROP_TRUNCATED);
        return;
    }
    uint32_t segment = packet->length, offset = 0;
    if (packet->segment_size) {
        segment = packet->segment_size;
        histogram_count(&worker->stats.receive_trains, (packet->length - 1) / segment + 1);
    }
    do {
        uint32_t length = packet->length - offset < segment ? packet->length - offset : segment;
        message(worker, packet, packet->data + offset, length, rate, NOT_OPENED);
        offset += segment;
    } while (offset < packet->length);
}

/* Runs on any worker. It skips messages that are not of the job's keypair. */
static void open_job(struct spread_job *job, uint32_t worker)
{
    const struct udpring_packet *train = job->in.train;
    struct aead_key *key = job->keypair->receiving[worker];
    uint64_t bit = 1;
    for (uint32_t offset = 0; offset < train->length; offset += train->segment_size, bit <<= 1) {
        uint8_t *bytes = train->data + offset, *inner = bytes + WG_DATA_HEADER;
        uint32_t left = train->length - offset, length = left < train->segment_size ? left : train->segment_size;
        if (ur_unlikely(length < WG_DATA_MIN || wg_le32(bytes) != job->keypair->data_type ||
                        wg_le32(bytes + 4) != job->keypair->local_index))
            continue;
        struct aead_op op = {.in = inner, .out = inner, .length = length - WG_DATA_HEADER, .counter = wg_le64(bytes + 8)};
        key->impl->open(key, &op, 1);
        job->in.opened |= bit;
        job->in.failed |= op.result < 0 ? bit : 0;
    }
}

bool inbound_spread(struct worker *worker, const struct udpring_packet *packet)
{
    uint32_t segment = packet->segment_size;
    struct spread_job *job = spread_room(worker->spread);
    if (!job || segment < WG_DATA_MIN || packet->flags & UDPRING_PACKET_TRUNCATED || packet->length <= (SPREAD_PACKETS_MIN - 1) * segment ||
        packet->length > SPREAD_PACKETS * segment)
        return false;
    const struct index_entry *entry = index_table_find(&worker->plane->indices, wg_le32(packet->data + 4));
    if (!entry || !entry->keypair)
        return false;
    job->run = open_job;
    job->keypair = entry->keypair;
    job->in.train = packet;
    job->in.opened = job->in.failed = 0;
    spread_publish(worker);
    return true;
}

void inbound_opened(struct worker *worker, struct udpring_packet *packet, const struct spread_job *job, struct rate *rate)
{
    uint64_t bit = 1;
    uint32_t segment = packet->segment_size;
    histogram_count(&worker->stats.receive_trains, (packet->length - 1) / segment + 1);
    for (uint32_t offset = 0; offset < packet->length; offset += segment, bit <<= 1) {
        uint32_t left = packet->length - offset;
        enum opened opened = job->in.failed & bit ? OPEN_FAILED : job->in.opened & bit ? OPENED : NOT_OPENED;
        message(worker, packet, packet->data + offset, left < segment ? left : segment, rate, opened);
    }
}

void inbound_flush(struct worker *worker)
{
    coalesce_flush(&worker->coalescer);
    if (worker->port)
        packet_port_publish(worker->port);
}
