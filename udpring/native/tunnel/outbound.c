/* Out: TUN -> UDP.
 *   1. read a packet straight into a free slot, behind the room for its header
 *   2. allowed-IPs gives the peer; no session: stage it and ask for a handshake
 *   3. pad, seal in place with the next nonce, write the header in front
 *   4. push the slot to the send ring; it comes back at reap
 * Reads stop when slots run out: the interface's own queue then pushes back, nothing is lost here. */
#include <netinet/in.h>
#include <stdlib.h>

#include "plane.h"

/* ECN and DSCP of the outer packet: data goes with DSCP 0 (kernel: HANDSHAKE_DSCP for handshakes only). */
#define DATA_TOS 0

static int slot_take(struct udpring_plane *plane)
{
    return plane->out_free_count ? (int)plane->out_free[--plane->out_free_count] : -ENOBUFS;
}

static void slot_give(struct udpring_plane *plane, uint32_t slot)
{
    plane->out_free[plane->out_free_count++] = slot;
}

static uint8_t *slot_packet(struct udpring_plane *plane, uint32_t slot)
{
    return plane->out[slot].memory + WG_DATA_HEADER;
}

/* Pushes `length` bytes at the start of the slot's memory; the slot comes back at reap, or at once on failure. */
static int slot_push(struct udpring_plane *plane, uint32_t slot, uint32_t peer, uint32_t length, uint8_t tos,
                     const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index)
{
    unsigned family = to->family == AF_INET ? 0 : 1;
    if (plane->fd[family] < 0) {
        plane_drop(plane, UDPRING_DROP_SEND_FAILED);
        slot_give(plane, slot);
        return -EAFNOSUPPORT;
    }
    plane->out[slot].peer = peer;
    struct udp_tx_item item = {
        .data = plane->out[slot].memory,
        .length = length,
        .token = slot,
        .destination = *to,
        .interface_index = interface_index,
        .tos = tos,
        .socket_index = plane->socket_of[family],
    };
    if (from && from->family == to->family)
        item.source = *from;
    else
        item.interface_index = 0;
    int result = udp_tx_push(plane->tx, &item);
    if (ur_unlikely(result < 0)) {
        plane_drop(plane, UDPRING_DROP_SEND_FAILED);
        slot_give(plane, slot);
    }
    return result;
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

/* Seals the packet that lies in the slot for the peer and pushes it. The peer has an endpoint and a key that may send. */
static void seal_and_push(struct udpring_plane *plane, struct peer *peer, uint32_t slot, uint32_t length)
{
    struct keypair *keypair = peer->current;
    uint8_t *packet = slot_packet(plane, slot);
    uint32_t full = padded(plane, length);
    memset(packet + length, 0, full - length);
    struct wg_data_header header = {
        .type = htole32(WG_TYPE_DATA),
        .receiver = htole32(keypair->remote_index),
        .counter = htole64(keypair->counter),
    };
    memcpy(plane->out[slot].memory, &header, sizeof(header));
    struct aead_op op = {.data = packet, .length = full, .counter = keypair->counter++};
    aead_chosen()->seal(keypair->sending, &op, 1);
    uint32_t bytes = WG_DATA_HEADER + full + WG_TAG;
    if (slot_push(plane, slot, peer->id, bytes, DATA_TOS, &peer->endpoint, &peer->source, peer->interface_index) < 0)
        return;
    peer_stamp_sent(plane, peer, bytes, length != 0);
    /* keep_key_fresh: by count on either side, by time on the initiator's alone */
    if (ur_unlikely(keypair->counter > WG_REKEY_AFTER_MESSAGES ||
                    (keypair->initiator && plane->now - keypair->birth_ns >= WG_REKEY_AFTER_TIME_NS)))
        plane_want_handshake(plane, peer);
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
        int slot = slot_take(plane);
        if (slot < 0) {
            kick(plane, peer);   /* the rest when slots have come back */
            return;
        }
        struct staged_packet *packet = peer_unstage(peer, &plane->staged_bytes);
        uint32_t length = packet->length;
        memcpy(slot_packet(plane, (uint32_t)slot), packet->data, length);
        explicit_bzero(packet->data, length);
        free(packet);
        seal_and_push(plane, peer, (uint32_t)slot, length);
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
    memcpy(plane->out[slot].memory, bytes, length);
    int result = slot_push(plane, (uint32_t)slot, peer ? peer->id : UDPRING_PEER_NONE, length, tos, to, from, interface_index);
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

/* One packet that lies in the slot: the slot is the send ring's, or free again, when this returns. */
static void outbound_packet(struct udpring_plane *plane, uint32_t slot, uint32_t length)
{
    uint8_t *packet = slot_packet(plane, slot);
    bool valid;
    struct peer *peer = plane_peer(plane, destination_peer(plane, packet, length, &valid));
    if (ur_unlikely(!peer)) {
        plane_drop(plane, valid ? UDPRING_DROP_NO_PEER : UDPRING_DROP_BAD_OUTER);
    } else if (ur_unlikely(!peer->endpoint.family)) {
        plane_drop(plane, UDPRING_DROP_NO_ENDPOINT);
    } else if (ur_likely(keypair_can_send(peer->current, plane->now) && !peer->staged_count)) {
        seal_and_push(plane, peer, slot, length);
        return;
    } else {
        stage(plane, peer, packet, length);   /* behind those that wait already: order is kept */
        outbound_flush_staged(plane, peer);
    }
    slot_give(plane, slot);
}

void outbound_pass(struct udpring_plane *plane)
{
    if (!plane->tun_ready || plane->tun_gone)
        return;
    if (plane->now - plane->mtu_checked_ns >= MTU_CHECK_NS) {
        plane->mtu_checked_ns = plane->now;
        tun_refresh(&plane->tun);
    }
    for (unsigned i = 0; i < TUN_BATCH; i++) {
        if (plane->out_free_count <= OUT_SLOTS_RESERVED || udp_tx_room(plane->tx) == 0)
            return;
        uint32_t slot = (uint32_t)slot_take(plane);
        ssize_t got = tun_read(&plane->tun, slot_packet(plane, slot), OUT_DATA_MAX);
        if (got <= 0) {
            slot_give(plane, slot);
            plane->tun_ready = false;
            if (got == -EBADFD || got == -EBADF || got == -ENODEV) {
                plane->tun_gone = true;
                plane_post(plane, UDPRING_EVENT_TUN_GONE, UDPRING_PEER_NONE, (int32_t)got);
            }
            return;
        }
        plane->stats.tun_packets_in++;
        plane->stats.tun_bytes_in += (uint64_t)got;
        outbound_packet(plane, slot, (uint32_t)got);
    }
}

void outbound_reap(struct udpring_plane *plane)
{
    struct udp_tx_done done[64];
    unsigned count;
    do {
        count = udp_tx_reap(plane->tx, done, UR_ARRAY_LENGTH(done));
        for (unsigned i = 0; i < count; i++) {
            uint32_t slot = (uint32_t)done[i].token;
            if (ur_unlikely(done[i].result < 0))
                plane_drop(plane, UDPRING_DROP_SEND_FAILED);
            if (ur_unlikely(done[i].flags & UDP_TX_SOURCE_DROPPED)) {
                struct peer *peer = plane_peer(plane, plane->out[slot].peer);
                if (peer) {
                    memset(&peer->source, 0, sizeof(peer->source));
                    peer->interface_index = 0;
                }
            }
            slot_give(plane, slot);
        }
    } while (count == UR_ARRAY_LENGTH(done));
}
