#include "plane_model.h"

/* A packet on its way out. Owner: the list of its worker. Found by length and hash. */
struct expected {
    uint64_t hash;
    uint64_t unmarked;          /* hash without congestion mark and header checksum */
    uint64_t flow;
    uint32_t moves;             /* of the model, when it was read */
    uint32_t length;
    uint8_t life;
    uint8_t ecn;
    enum { WAITING, LEFT, PASSED } state;   /* PASSED: a later one of the same flow has left */
};

static struct expected expected[WORKERS][EXPECTED];
static uint32_t expected_count[WORKERS];

static uint64_t hash_of(const uint8_t *bytes, uint32_t length)
{
    uint64_t hash = 1469598103934665603u;
    for (uint32_t i = 0; i < length; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

static bool is_ipv6(const uint8_t *packet, uint32_t length)
{
    return packet[0] >> 4 == 6 && length >= 40;
}

static uint8_t ecn_of(const uint8_t *packet, uint32_t length)
{
    return length < 20 ? 0 : is_ipv6(packet, length) ? packet[1] >> 4 & 3 : packet[1] & 3;
}

static uint64_t hash_unmarked(const uint8_t *packet, uint32_t length)
{
    static uint8_t copy[MODEL_PACKET_MAX + WG_PADDING];
    memcpy(copy, packet, length);
    if (is_ipv6(packet, length)) {
        copy[1] &= 0xcf;
    } else if (length >= 20) {
        copy[1] &= 0xfc;
        copy[10] = copy[11] = 0;
    }
    return hash_of(copy, length);
}

/* Addresses, and protocol and ports where they are visible. Packets of other flows may pass (tun/flow_queue.c). */
static uint64_t flow_of(const uint8_t *packet, uint32_t length)
{
    uint8_t key[37] = {0};
    bool v6 = is_ipv6(packet, length);
    if (length < 20)
        return 0;
    uint32_t transport = v6 ? 40 : (packet[0] & 15u) * 4u;
    uint8_t protocol = v6 ? packet[6] : packet[9];
    memcpy(key, packet + (v6 ? 8 : 12), v6 ? 32 : 8);
    bool whole = v6 || !((packet[6] & 0x3f) | packet[7]);
    if (whole && (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) && length >= transport + 4) {
        key[32] = protocol;
        memcpy(key + 33, packet + transport, 4);
    }
    return hash_of(key, sizeof(key));
}

void out_reset(void)
{
    memset(expected_count, 0, sizeof(expected_count));
}

/* Makes room: packets that have left are forgotten. */
static void shrink(uint32_t queue)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < expected_count[queue]; i++)
        if (expected[queue][i].state != LEFT)
            expected[queue][kept++] = expected[queue][i];
    if (kept == EXPECTED) {
        model.forgot = true;
        memmove(expected[queue], expected[queue] + EXPECTED / 4, (kept -= EXPECTED / 4) * sizeof(expected[queue][0]));
    }
    expected_count[queue] = kept;
}

static void expect(void *context, const uint8_t *packet, uint32_t length)
{
    uint32_t queue = *(const uint32_t *)context;
    model.packets_read++;
    uint8_t life = model_owner(packet, length, true);
    enum own own = own_read(life, packet, length);
    if (life != NOBODY && own == OWN_NOT)
        nested_read(life, packet, length);
    if (expected_count[queue] == EXPECTED)
        shrink(queue);
    expected[queue][expected_count[queue]++] = (struct expected){
        .hash = hash_of(packet, length), .unmarked = hash_unmarked(packet, length), .flow = flow_of(packet, length),
        /* A message of the plane itself leaves only if it waited until its keypair was no longer known. */
        .moves = model.moves - (own == OWN_LOOPS), .state = own == OWN_LOOPS ? PASSED : WAITING, .length = length, .life = life, .ecn = ecn_of(packet, length)};
}

void out_read(uint32_t queue, const struct kernel_packet *packet)
{
    if (!model_segment(&packet->vnet, packet->bytes, packet->length, expect, &queue))
        model.others++;   /* refused as a whole, and counted once */
}

static bool is_it(const struct expected *each, const uint8_t *plain, uint32_t length)
{
    if (each->length > length || length - each->length >= WG_PADDING)
        return false;
    for (uint32_t i = each->length; i < length; i++)
        if (plain[i])
            return false;
    if (hash_of(plain, each->length) == each->hash)
        return true;
    bool marked = ecn_of(plain, each->length) == 3 && (each->ecn == 1 || each->ecn == 2);
    return marked && hash_unmarked(plain, each->length) == each->unmarked;
}

static bool leaves(uint32_t queue, uint8_t life, const uint8_t *plain, uint32_t length, bool passed)
{
    for (uint32_t i = 0; i < expected_count[queue]; i++) {
        struct expected *each = &expected[queue][i];
        if (each->life != life || each->state != (passed ? PASSED : WAITING) || !is_it(each, plain, length))
            continue;
        each->state = LEFT;
        for (uint32_t before = 0; before < i && !passed && life != NOBODY; before++)
            if (expected[queue][before].life == life && expected[queue][before].flow == each->flow &&
                expected[queue][before].state == WAITING)
                expected[queue][before].state = PASSED;
        return true;
    }
    return false;
}

/* A packet that waits goes to the peer that has its address when its turn comes. */
static bool leaves_elsewhere(uint32_t queue, const uint8_t *plain, uint32_t length)
{
    for (uint32_t i = 0; i < expected_count[queue]; i++) {
        struct expected *each = &expected[queue][i];
        if (each->state == LEFT || each->moves == model.moves || !is_it(each, plain, length))
            continue;
        each->state = LEFT;
        return true;
    }
    return false;
}

static void data_leaves(const struct kernel_send *send, const uint8_t *message, uint32_t length)
{
    static uint8_t plain[MODEL_PACKET_MAX + WG_PADDING];
    CLAIM(length >= WG_DATA_MIN, "a data message of %u bytes", length);
    const struct session *session = model_session(wg_le32(message + 4), false);
    CLAIM(session, "receiver %u is no peer's", wg_le32(message + 4));
    uint64_t counter = wg_le64(message + 8);
    CLAIM(wg_le32(message) == session->type, "type %x under a key of type %x", wg_le32(message), session->type);
    CLAIM(counter < (session->type == WG_TYPE_DATA ? WG_REJECT_AFTER_MESSAGES : GCM_REJECT_AFTER_MESSAGES), "counter %lu", counter);
    model_nonce_leaves(session->send_secret, counter, message + WG_DATA_HEADER, length - WG_DATA_HEADER);
    uint8_t slot = model.life[session->life].slot;
    CLAIM(send->destination.ip[1] % 16 == slot, "a packet for peer %u goes to an address of peer %u", slot, send->destination.ip[1]);
    CLAIM(model_open(session->send_secret, counter, message + WG_DATA_HEADER, length - WG_DATA_HEADER, plain), "it does not open");
    CLAIM(!model.loops[slot] || model.life[model.present[slot]].id != model.life[session->life].id, "a packet comes back through the tunnel");
    length -= WG_DATA_MIN;
    nested_leaves(session->life, plain, length);
    if (!length)
        return;   /* a keepalive */
    model.packets_left++;
    for (uint32_t queue = 0; queue < WORKERS; queue++)
        if (leaves(queue, session->life, plain, length, false))
            return;
    /* With a directory a packet that waited for its peer may equal one of the peer's own: the oracle takes it for that one. */
    for (uint32_t queue = 0; queue < WORKERS && (model.life[session->life].reordered || model.asks); queue++)
        if (leaves(queue, session->life, plain, length, true))
            return;
    for (uint32_t queue = 0; queue < WORKERS && model.asks; queue++)
        if (leaves(queue, NOBODY, plain, length, false))
            return;
    for (uint32_t queue = 0; queue < WORKERS; queue++)
        if (leaves_elsewhere(queue, plain, length))
            return;
    CLAIM(model.forgot, "a packet of %u bytes leaves that was never read, or late, for life %u", length, session->life);
}

static void message_leaves(const struct kernel_send *send, const uint8_t *message, uint32_t length)
{
    uint32_t type = length >= 4 ? wg_le32(message) & ~WG_MARK_AES_256_GCM : 0;
    if (type == WG_TYPE_DATA)
        data_leaves(send, message, length);
    else
        CLAIM(!send->segment, "handshakes in a train");
    if (type == WG_TYPE_COOKIE_REPLY && length == sizeof(model.cookie_reply)) {
        memcpy(model.cookie_reply, message, length);
        model.cookie_replies++;
    }
}

/* A send that is refused and repeated may be overtaken by packets already in flight: a datagram without its source, a train
 * on a route that accepted others before, and one that waited for room in its socket with others behind it (tx.h, outbound.c).
 * */
static void refused(const struct kernel_send *send, const uint8_t *message, uint32_t length)
{
    bool data = length >= WG_DATA_MIN && (wg_le32(message) & ~WG_MARK_AES_256_GCM) == WG_TYPE_DATA;
    const struct session *session = data ? model_session(wg_le32(message + 4), false) : NULL;
    if (!session)
        return;
    const struct peer *peer = plane_peer(model.plane, model.life[session->life].id);
    if (!send->segment || kernel.was_full || model.send_error == EAGAIN || !peer || peer->trains != TRAINS_NOT_ASKED)
        model.life[session->life].reordered = true;
}

int32_t out_send(const struct kernel_send *send)
{
    static uint8_t data[MODEL_PACKET_MAX];
    uint32_t length = 0;
    for (size_t i = 0; i < send->message->msg_iovlen; i++) {
        const struct iovec *part = &send->message->msg_iov[i];
        CLAIM(length + part->iov_len <= sizeof(data), "more than any datagram");
        memcpy(data + length, part->iov_base, part->iov_len);
        length += (uint32_t)part->iov_len;
    }
    if (model.send_errors && (send->segment || !model.only_trains)) {
        model.send_errors--;
        refused(send, data, length);
        return -model.send_error;
    }
    uint32_t segment = send->segment ? send->segment : length;
    CLAIM(!send->segment || send->segment < length, "a train of one");
    for (uint32_t at = 0; at < length; at += segment)
        message_leaves(send, data + at, length - at < segment ? length - at : segment);
    return (int32_t)length;
}

/* Each slot is either free once or in use. */
static void check_slots(const struct worker *worker)
{
    bool seen[OUT_SLOTS] = {false};
    CLAIM(worker->out_free_count <= OUT_SLOTS, "%u free slots", worker->out_free_count);
    for (uint32_t i = 0; i < worker->out_free_count; i++) {
        CLAIM(worker->out_free[i] < OUT_SLOTS && !seen[worker->out_free[i]], "slot %u is free twice", worker->out_free[i]);
        seen[worker->out_free[i]] = true;
    }
    CLAIM(worker->train < 0 || !seen[worker->train], "slot %d is free and a train", worker->train);
    if (worker->tx && !udp_tx_pending(worker->tx))
        CLAIM(worker->out_free_count + (worker->train >= 0) == OUT_SLOTS, "%u slots are lost", OUT_SLOTS - worker->out_free_count);
}

static uint64_t staged(void)
{
    uint64_t count = 0;
    for (uint32_t slot = 0; slot < model.plane->peers_capacity; slot++)
        if (model.plane->peers[slot])
            count += staged_count(&model.plane->workers[0], model.plane->peers[slot]);
    for (uint32_t i = 0; i < model.plane->worker_count && model.asks; i++)
        for (uint32_t at = 0; at < WANTED_ENTRIES; at++)
            count += model.plane->workers[i].wanted->entries[at].staging.count;
    return count;
}

void out_check_quiet(void)
{
    uint64_t dropped = 0, answers = 0;   /* each message without a valid mac2 gets at most one cookie reply */
    bool pending = false;
    for (uint32_t i = 0; i < model.plane->worker_count; i++) {
        const struct worker *worker = &model.plane->workers[i];
        check_slots(worker);
        pending |= worker->train >= 0 || (worker->tx && udp_tx_pending(worker->tx));
        pending |= worker->flows && worker->flows->count;   /* the worker is busy, and the next pass takes them */
        for (uint32_t reason = UDPRING_DROP_NO_PEER; reason < UDPRING_DROP_COUNT; reason++)
            dropped += worker->stats.drops[reason];
        dropped += worker->flows ? worker->flows->dropped : 0;   /* by CoDel */
        answers += worker->stats.drops[UDPRING_DROP_BAD_MAC2];
    }
    if (pending)
        return;
    uint64_t lost = model.packets_read - model.packets_left, waiting = staged();
    CLAIM(lost <= dropped + waiting, "%lu of %lu packets did not leave, %lu are counted as dropped, %lu are staged", lost,
          model.packets_read, dropped, waiting);
    CLAIM(dropped <= lost + model.others + answers, "%lu are counted as dropped, %lu packets did not leave, %lu other messages", dropped,
          lost, model.others + answers);
}
