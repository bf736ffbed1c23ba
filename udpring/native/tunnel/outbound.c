/* Out: TUN -> UDP.
 *   1. read a packet or a super-packet (TSO, USO) and take it apart in place      (segment.c)
 *   2. allowed-IPs gives the peer; no session: stage it and ask for a handshake
 *   3. pad, seal with the next nonce straight into a send slot, behind its header: the one copy is the cipher's own
 *   4. packets of one peer and one size that follow each other share a slot: a train (UDP_SEGMENT)
 *   5. push the slot to the send ring; it comes back at reap
 * Reads stop when slots run out: the interface's own queue then pushes back, nothing is lost here. */
#include <netinet/in.h>
#include <stdlib.h>

#include "ecn.h"
#include "plane.h"
#include "segment.h"

static int slot_take(struct udpring_plane *plane)
{
    return plane->out_free_count ? (int)plane->out_free[--plane->out_free_count] : -ENOBUFS;
}

static void slot_give(struct udpring_plane *plane, uint32_t slot)
{
    plane->out[slot].in_flight = 0;
    plane->out_free[plane->out_free_count++] = slot;
}

/* Pushes the slot as it stands; it comes back at reap, or at once on failure. */
static int slot_push(struct udpring_plane *plane, uint32_t slot)
{
    struct out_slot *out = &plane->out[slot];
    int result = plane->fd[out->item.destination.family == AF_INET ? 0 : 1] < 0 ? -EAFNOSUPPORT
                                                                                   : udp_tx_push(plane->tx, &out->item);
    if (ur_unlikely(result < 0)) {
        plane->stats.drops[UDPRING_DROP_SEND_FAILED] += out->packets;
        slot_give(plane, slot);
    }
    return result;
}

static void slot_address(struct udpring_plane *plane, uint32_t slot, uint32_t peer, uint8_t tos,
                         const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index)
{
    struct out_slot *out = &plane->out[slot];
    bool sticky = from && from->family == to->family;
    out->peer = peer;
    out->packets = 0;
    out->item = (struct udp_tx_item){
        .data = out->memory,
        .token = slot,
        .destination = *to,
        .interface_index = sticky ? interface_index : 0,
        .tos = tos,
        .socket_index = plane->socket_of[to->family == AF_INET ? 0 : 1],
    };
    if (sticky)
        out->item.source = *from;
}

void outbound_close_train(struct udpring_plane *plane)
{
    if (plane->train < 0)
        return;
    uint32_t slot = (uint32_t)plane->train;
    plane->train = -1;
    slot_push(plane, slot);
}

/* The slot and place for one more sealed packet of `bytes` bytes to this peer: behind the others of an open train if all
 * of UDP_SEGMENT's rules hold (equal sizes, only the last shorter), else at the start of a fresh slot. NULL: no slot. */
static uint8_t *train_place(struct udpring_plane *plane, struct peer *peer, uint32_t bytes, uint8_t tos)
{
    if (plane->train >= 0) {
        struct out_slot *out = &plane->out[plane->train];
        if (out->peer == peer->id && out->item.tos == tos && bytes <= out->item.segment_size && out->packets < TRAIN_SEGMENTS &&
            out->item.length + bytes <= TRAIN_BYTES && !peer->no_trains &&
            !(plane->options.flags & UDPRING_PLANE_NO_UDP_OFFLOAD)) {
            uint8_t *place = out->memory + out->item.length;
            out->item.length += bytes;
            out->packets++;
            return place;
        }
        outbound_close_train(plane);
    }
    int slot = slot_take(plane);
    if (ur_unlikely(slot < 0))
        return NULL;
    slot_address(plane, (uint32_t)slot, peer->id, tos, &peer->endpoint, &peer->source, peer->interface_index);
    plane->train = slot;
    struct out_slot *out = &plane->out[slot];
    out->item.segment_size = out->item.length = bytes;
    out->packets = 1;
    return out->memory;
}

/* Zero bytes up to a multiple of 16, but never beyond the interface's MTU (kernel: calculate_skb_padding). */
static uint32_t padded(const struct udpring_plane *plane, uint32_t length)
{
    uint32_t mtu = plane->tun.mtu;
    uint32_t last = mtu && length > mtu ? length % mtu : length;
    uint32_t full = (last + WG_PADDING - 1) & ~(WG_PADDING - 1u);
    if (mtu && full > mtu)
        full = mtu;
    return length + (full > last ? full - last : 0);
}

/* Seals a packet for the peer onto its train. The peer has an endpoint and a key that may send. Behind the packet there is
 * room for WG_PADDING bytes, which are as before when this returns. -ENOBUFS: no slot. */
static int seal(struct udpring_plane *plane, struct peer *peer, uint8_t *packet, uint32_t length)
{
    struct keypair *keypair = peer->current;
    uint32_t full = padded(plane, length);
    uint32_t bytes = WG_DATA_HEADER + full + WG_TAG;
    /* Data goes with DSCP 0 and the inner ECN field (kernel: DSCP for handshakes only). */
    uint8_t *place = train_place(plane, peer, bytes, length ? ecn_of(packet) : ECN_NOT_ECT);
    if (ur_unlikely(!place))
        return -ENOBUFS;
    struct wg_data_header header = {
        .type = htole32(WG_TYPE_DATA),
        .receiver = htole32(keypair->remote_index),
        .counter = htole64(keypair->counter),
    };
    memcpy(place, &header, sizeof(header));
    /* What follows may be the next segment's payload. */
    uint8_t behind[WG_PADDING];
    memcpy(behind, packet + length, full - length);
    memset(packet + length, 0, full - length);
    struct aead_op op = {.in = packet, .out = place + WG_DATA_HEADER, .length = full, .counter = keypair->counter++};
    keypair->sending->impl->seal(keypair->sending, &op, 1);
    memcpy(packet + length, behind, full - length);
    if (bytes < plane->out[plane->train].item.segment_size)
        outbound_close_train(plane);    /* only the last of a train may be shorter */
    peer_stamp_sent(plane, peer, bytes, length != 0);
    /* keep_key_fresh: by count on either side, by time on the initiator's alone */
    if (ur_unlikely(keypair->counter > WG_REKEY_AFTER_MESSAGES ||
                    (keypair->initiator && plane->now - keypair->birth_ns >= WG_REKEY_AFTER_TIME_NS)))
        plane_want_handshake(plane, peer);
    return 0;
}

void outbound_drop_staged(struct udpring_plane *plane, struct peer *peer, enum udpring_drop reason)
{
    struct staged_packet *packet;
    while ((packet = peer_unstage(peer, &plane->staged_bytes))) {
        plane_drop(plane, reason);
        explicit_bzero(packet->data, packet->length);
        free(packet);
    }
}

static void kick(struct udpring_plane *plane, struct peer *peer)
{
    if (peer->kicked || plane->kicked_count == KICKS_MAX)
        return;
    peer->kicked = true;
    plane->kicked[plane->kicked_count++] = peer->id;
}

void outbound_flush_staged(struct udpring_plane *plane, struct peer *peer)
{
    if (!peer->staged_count)
        return;
    if (!peer->endpoint.family) {
        outbound_drop_staged(plane, peer, UDPRING_DROP_NO_ENDPOINT);
        return;
    }
    while (peer->staged_count && keypair_can_send(peer->current, plane->now)) {
        struct staged_packet *packet = peer_staged(peer);
        if (seal(plane, peer, packet->data, packet->length) < 0) {
            kick(plane, peer);   /* the rest when slots have come back */
            return;
        }
        peer_unstage(peer, &plane->staged_bytes);
        explicit_bzero(packet->data, packet->length);
        free(packet);
    }
    if (peer->staged_count)
        plane_want_handshake(plane, peer);
}

void outbound_kicked(struct udpring_plane *plane)
{
    uint32_t waiting[KICKS_MAX];
    uint32_t count = plane->kicked_count;
    memcpy(waiting, plane->kicked, count * sizeof(*waiting));
    plane->kicked_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct peer *peer = plane_peer(plane, waiting[i]);
        if (peer) {
            peer->kicked = false;
            outbound_flush_staged(plane, peer);
        }
    }
}

static void stage(struct udpring_plane *plane, struct peer *peer, const uint8_t *packet, uint32_t length)
{
    int dropped = peer_stage(peer, packet, length, &plane->staged_bytes);
    if (dropped)
        plane_drop(plane, UDPRING_DROP_STAGING_FULL);
}

int outbound_keepalive(struct udpring_plane *plane, struct peer *peer)
{
    if (!peer->endpoint.family)
        return -EDESTADDRREQ;
    /* The passive keepalive answers what came in before it; what came in while it was pending is owed one more. */
    bool again = peer->owed_since_ns && peer->owed_again;
    if (!peer->staged_count)
        stage(plane, peer, (const uint8_t *)"", 0);
    outbound_flush_staged(plane, peer);
    if (peer->staged_count && !keypair_can_send(peer->current, plane->now))
        return -ENOKEY;
    if (again)
        peer->owed_since_ns = plane->now;
    return 0;
}

int outbound_message(struct udpring_plane *plane, struct peer *peer, const uint8_t *bytes, uint32_t length, uint8_t tos,
                     const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index)
{
    if (!to) {
        if (!peer->endpoint.family)
            return -EDESTADDRREQ;
        to = &peer->endpoint;
        from = &peer->source;
        interface_index = peer->interface_index;
    }
    int slot = slot_take(plane);
    if (slot < 0)
        return slot;
    slot_address(plane, (uint32_t)slot, peer ? peer->id : UDPRING_PEER_NONE, tos, to, from, interface_index);
    struct out_slot *out = &plane->out[slot];
    memcpy(out->memory, bytes, length);
    out->item.length = length;
    out->packets = 1;
    int result = slot_push(plane, (uint32_t)slot);
    if (result == 0 && peer)
        peer_stamp_sent(plane, peer, length, false);
    return result;
}

static uint32_t destination_peer(const struct udpring_plane *plane, const uint8_t *packet, uint32_t length, bool *valid)
{
    *valid = true;
    if (length >= 20 && packet[0] >> 4 == 4)
        return allowed_ips_lookup4(plane->trie, packet + 16);
    if (length >= 40 && packet[0] >> 4 == 6)
        return allowed_ips_lookup6(plane->trie, packet + 24);
    *valid = false;
    return UDPRING_PEER_NONE;
}

static void outbound_packet(struct udpring_plane *plane, uint8_t *packet, uint32_t length)
{
    bool valid;
    struct peer *peer = plane_peer(plane, destination_peer(plane, packet, length, &valid));
    if (ur_unlikely(!peer)) {
        plane_drop(plane, valid ? UDPRING_DROP_NO_PEER : UDPRING_DROP_BAD_OUTER);
        return;
    }
    if (ur_unlikely(!peer->endpoint.family)) {
        plane_drop(plane, UDPRING_DROP_NO_ENDPOINT);
        return;
    }
    if (ur_likely(keypair_can_send(peer->current, plane->now) && !peer->staged_count) &&
        ur_likely(seal(plane, peer, packet, length) == 0))
        return;
    stage(plane, peer, packet, length);   /* behind those that wait already: order is kept */
    outbound_flush_staged(plane, peer);
}

/* Reads one packet or super-packet and sends what it stands for. Bytes read, or <= 0 when there is none. */
static ssize_t outbound_read(struct udpring_plane *plane)
{
    struct vnet_header vnet = {0};
    uint8_t *packet = plane->tun_packet;
    ssize_t got = tun_read(&plane->tun, &vnet, packet, OUT_DATA_MAX);
    if (got <= 0)
        return got;
    struct segmenter segmenter;
    if (ur_unlikely(segment_open(&segmenter, &vnet, packet, (uint32_t)got) < 0)) {
        plane_drop(plane, UDPRING_DROP_BAD_OUTER);
        return got;
    }
    uint32_t length;
    while (segment_next(&segmenter, &packet, &length)) {
        plane->stats.tun_packets_in++;
        plane->stats.tun_bytes_in += length;
        outbound_packet(plane, packet, length);
    }
    return got;
}

void outbound_pass(struct udpring_plane *plane)
{
    if (!plane->tun_ready || plane->tun_gone)
        return;
    if (plane->now - plane->mtu_checked_ns >= MTU_CHECK_NS) {
        plane->mtu_checked_ns = plane->now;
        tun_refresh(&plane->tun);
    }
    uint32_t bytes = 0;
    for (unsigned i = 0; i < TUN_BATCH && bytes < TUN_BATCH_BYTES; i++) {
        /* Room for all trains that a super-packet may become. */
        if (plane->out_free_count <= OUT_SLOTS_RESERVED || udp_tx_room(plane->tx) < TRAINS_PER_READ)
            break;
        ssize_t got = outbound_read(plane);
        if (got <= 0) {
            plane->tun_ready = false;
            if (got == -EBADFD || got == -EBADF || got == -ENODEV) {
                plane->tun_gone = true;
                plane_post(plane, UDPRING_EVENT_TUN_GONE, UDPRING_PEER_NONE, (int32_t)got);
            }
            break;
        }
        bytes += (uint32_t)got;
    }
    outbound_close_train(plane);
}

/* The route takes no trains of this size (a smaller MTU, a device without checksum offload): the same packets once more,
 * each by itself, and no trains to this peer until it roams or has a new key. Their slot comes back with the last of them;
 * false: none could be sent, which is counted. */
static bool resend_split(struct udpring_plane *plane, uint32_t slot)
{
    struct out_slot *out = &plane->out[slot];
    struct peer *peer = plane_peer(plane, out->peer);
    if (peer)
        peer->no_trains = true;
    struct udp_tx_item item = out->item;
    uint32_t size = item.segment_size, left = item.length;
    item.segment_size = 0;
    plane->stats.trains_split++;
    for (; left; item.data += item.length, left -= item.length) {
        item.length = left < size ? left : size;
        if (udp_tx_push(plane->tx, &item) == 0)
            out->in_flight++;
        else
            plane_drop(plane, UDPRING_DROP_SEND_FAILED);
    }
    return out->in_flight != 0;
}

void outbound_reap(struct udpring_plane *plane)
{
    struct udp_tx_done done[64];
    unsigned count;
    do {
        count = udp_tx_reap(plane->tx, done, UR_ARRAY_LENGTH(done));
        for (unsigned i = 0; i < count; i++) {
            uint32_t slot = (uint32_t)done[i].token;
            struct out_slot *out = &plane->out[slot];
            if (ur_unlikely(done[i].flags & UDP_TX_SOURCE_DROPPED)) {
                struct peer *peer = plane_peer(plane, out->peer);
                if (peer) {
                    memset(&peer->source, 0, sizeof(peer->source));
                    peer->interface_index = 0;
                }
            }
            if (ur_unlikely(done[i].result < 0)) {
                if (done[i].flags & UDP_TX_SPLIT) {
                    if (resend_split(plane, slot))
                        continue;
                } else {
                    plane->stats.drops[UDPRING_DROP_SEND_FAILED] += out->in_flight ? 1 : out->packets;
                }
            }
            if (ur_unlikely(out->in_flight > 1)) {
                out->in_flight--;
                continue;
            }
            slot_give(plane, slot);
        }
    } while (count == UR_ARRAY_LENGTH(done));
}
