/* What packets mean for the control loop: stamps that timers read, and events where it must act. */
#include <sys/random.h>

#include "plane.h"

static struct udpring_event *event_next(struct udpring_plane *plane, uint32_t kind, uint32_t peer)
{
    struct udpring_event *event = mailbox_next(&plane->mailbox);
    if (!event) {
        plane->stats.events_lost++;
        return NULL;
    }
    event->kind = kind;
    event->peer = peer;
    event->now_ns = plane->now;
    return event;
}

static void event_post(struct udpring_plane *plane)
{
    mailbox_post(&plane->mailbox);
    plane->stats.events++;
}

void plane_post(struct udpring_plane *plane, uint32_t kind, uint32_t peer, int32_t result)
{
    struct udpring_event *event = event_next(plane, kind, peer);
    if (!event)
        return;
    event->result = result;
    event_post(plane);
}

void plane_want_handshake(struct udpring_plane *plane, struct peer *peer)
{
    if (peer->wanted_ns && plane->now - peer->wanted_ns < WANTED_INTERVAL_NS)
        return;
    struct udpring_event *event = event_next(plane, UDPRING_EVENT_HANDSHAKE_WANTED, peer->id);
    if (!event)
        return;   /* asked again with the next packet */
    peer->wanted_ns = plane->now;
    event_post(plane);
}

/* The cookie of this sender under the present secret (0) or the last one (1). */
static bool cookie_of(struct udpring_plane *plane, uint32_t secret, const struct udpring_packet *packet,
                      uint8_t cookie[MAC_COOKIE_BYTES])
{
    uint32_t ip_bytes = packet->source.family == AF_INET ? 4 : 16;
    return secret < plane->cookie_secrets &&
           mac_cookie(&plane->mac, plane->cookie_secret[secret], packet->source.ip, ip_bytes, packet->source.port, cookie) == 0;
}

/* Is the cookie that this sender got from us, now or before the last change of the secret, behind this mac2? */
static bool mac2_valid(struct udpring_plane *plane, const struct udpring_packet *packet, const uint8_t *message, uint32_t length)
{
    for (uint32_t secret = 0; secret < 2; secret++) {
        uint8_t cookie[MAC_COOKIE_BYTES];
        if (cookie_of(plane, secret, packet, cookie) && mac_check2(&plane->mac, cookie, message, length))
            return true;
    }
    return false;
}

/* Answers a message without a valid mac2, from the address that it came to. Other handshakes keep their slots. */
static void ask_for_cookie(struct udpring_plane *plane, const struct udpring_packet *packet, const uint8_t *message,
                           uint32_t length)
{
    uint8_t cookie[MAC_COOKIE_BYTES], nonce[COOKIE_NONCE_BYTES], reply[COOKIE_REPLY_BYTES];
    if (plane->out_free_count < OUT_SLOTS_RESERVED / 2 || !cookie_of(plane, 0, packet, cookie) ||
        getrandom(nonce, sizeof(nonce), 0) != sizeof(nonce) ||
        cookie_reply_make(&plane->cookie_sealer, plane->cookie_key, nonce, message + 4, message + length - 2 * MAC_BYTES, cookie,
                          reply) != 0)
        return;
    /* What the socket refuses is counted there; the sender will ask again. */
    (void)outbound_message(plane, NULL, reply, sizeof(reply), 0, &packet->source, &packet->local, packet->interface_index);
}

void plane_post_handshake(struct udpring_plane *plane, const struct udpring_packet *packet, const uint8_t *message,
                          uint32_t length)
{
    uint32_t peer = UDPRING_PEER_NONE, flags = 0;
    uint32_t depth = mailbox_depth(&plane->mailbox);
    uint32_t type = message[0];
    if (type != WG_TYPE_COOKIE_REPLY) {
        if (!plane->has_identity) {
            plane_drop(plane, UDPRING_DROP_NO_IDENTITY);
            return;
        }
        if (!mac_check1(&plane->mac, plane->mac1_key, message, length)) {
            plane_drop(plane, UDPRING_DROP_BAD_MAC1);
            return;
        }
        if (depth >= plane->mailbox.capacity / 8)
            plane->load_until_ns = plane->now + UNDER_LOAD_NS;
        if (plane->now < plane->load_until_ns) {
            flags |= UDPRING_EVENT_UNDER_LOAD;
            if (!mac2_valid(plane, packet, message, length)) {
                /* The mailbox is for those who proved their address. */
                ask_for_cookie(plane, packet, message, length);
                plane_drop(plane, UDPRING_DROP_BAD_MAC2);
                return;
            }
            flags |= UDPRING_EVENT_MAC2_VALID;
        }
    }
    if (type != WG_TYPE_INITIATION) {
        /* Who the reply is for: the index named in a response (offset 8) or a cookie reply (offset 4). */
        struct index_entry *entry = index_table_find(&plane->indices, wg_le32(message + (type == WG_TYPE_RESPONSE ? 8 : 4)));
        if (!entry) {
            plane_drop(plane, UDPRING_DROP_UNKNOWN_INDEX);
            return;
        }
        peer = entry->peer;
    }
    struct udpring_event *event = event_next(plane, UDPRING_EVENT_HANDSHAKE, peer);
    if (!event) {
        plane_drop(plane, UDPRING_DROP_MAILBOX_FULL);
        return;
    }
    event->flags = flags;
    event->length = length;
    event->interface_index = packet->interface_index;
    event->source = packet->source;
    event->local = packet->local;
    memcpy(event->message, message, length);
    event_post(plane);
}

/* Something that a timer waits for has changed; tell the control loop once, if that peer's timers rest. */
static void stir(struct udpring_plane *plane, struct peer *peer)
{
    if (peer->resting) {
        struct udpring_event *event = event_next(plane, UDPRING_EVENT_ACTIVITY, peer->id);
        if (!event)
            return;   /* still resting, so the next stamp tries again */
        peer->resting = false;
        event_post(plane);
    }
}

void peer_stamp_sent(struct udpring_plane *plane, struct peer *peer, uint32_t bytes, bool data)
{
    peer->tx_bytes += bytes;
    peer->last_sent_ns = peer->last_traversal_ns = plane->now;
    peer->owed_since_ns = 0;
    peer->owed_again = false;
    if (data && !peer->unanswered_since_ns) {
        peer->unanswered_since_ns = plane->now;
        stir(plane, peer);
    }
}

void peer_stamp_received(struct udpring_plane *plane, struct peer *peer, uint32_t bytes)
{
    peer->rx_bytes += bytes;
    peer->last_received_ns = peer->last_traversal_ns = plane->now;
    peer->unanswered_since_ns = 0;
}

void peer_stamp_data_received(struct udpring_plane *plane, struct peer *peer)
{
    if (peer->owed_since_ns) {
        peer->owed_again = true;
        return;
    }
    peer->owed_since_ns = plane->now;
    stir(plane, peer);
}

void peer_roam(struct peer *peer, const struct udpring_address *endpoint, const struct udpring_address *local,
               uint32_t interface_index)
{
    if (memcmp(&peer->endpoint, endpoint, sizeof(*endpoint)) != 0) {
        peer->endpoint = *endpoint;
        peer->no_trains = false;
    }
    if (memcmp(&peer->source, local, sizeof(*local)) != 0 || peer->interface_index != interface_index) {
        peer->source = *local;
        peer->interface_index = interface_index;
    }
}
