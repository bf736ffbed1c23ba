/* A command: the lines of peers in the answer to a get request of the UAPI (www.wireguard.com/xplatform). Endpoints, byte counts and
 * allowed IPs are the plane's own. The caller says the rest. A call writes as much as there is room for, so the caller decides how
 * long the workers stand still. */
#include <arpa/inet.h>
#include <stdlib.h>

#include "command.h"

/* The longest text of a peer without allowed IPs, and of an allowed IP. */
#define FIXED_MAX 640u
#define PREFIX_MAX 64u
#define FEW 64u

static uint8_t *put(uint8_t *at, const char *text, size_t length)
{
    memcpy(at, text, length);
    return at + length;
}
#define PUT(at, literal) put(at, literal, sizeof(literal) - 1)

static uint8_t *put_word(uint8_t *at, const char *word)
{
    return put(at, word, strlen(word));
}

static uint8_t *put_number(uint8_t *at, uint64_t number)
{
    char digits[20];
    unsigned first = sizeof(digits);
    do
        digits[--first] = (char)('0' + number % 10);
    while (number /= 10);
    return put(at, digits + first, sizeof(digits) - first);
}

static uint8_t *put_key(uint8_t *at, const uint8_t key[32])
{
    static const char digits[] = "0123456789abcdef";
    for (unsigned i = 0; i < 32; i++) {
        *at++ = (uint8_t)digits[key[i] >> 4];
        *at++ = (uint8_t)digits[key[i] & 15];
    }
    return at;
}

static uint8_t *put_ip(uint8_t *at, uint16_t family, const uint8_t *ip)
{
    char text[INET6_ADDRSTRLEN] = "";
    if (family == AF_INET) {
        for (unsigned i = 0; i < 4; i++) {
            at = put_number(at, ip[i]);
            *at++ = '.';
        }
        return at - 1;
    }
    inet_ntop(family, ip, text, sizeof(text));
    return put_word(at, text);
}

static uint8_t *put_endpoint(uint8_t *at, const struct udpring_address *endpoint)
{
    bool v6 = endpoint->family == AF_INET6;
    at = v6 ? PUT(at, "endpoint=[") : PUT(at, "endpoint=");
    at = put_ip(at, endpoint->family, endpoint->ip);
    if (endpoint->scope_id) {
        *at++ = '%';
        at = put_number(at, endpoint->scope_id);
    }
    at = v6 ? PUT(at, "]:") : PUT(at, ":");
    at = put_number(at, endpoint->port);
    return PUT(at, "\n");
}

static uint8_t *put_field(uint8_t *at, const char *name, uint64_t number)
{
    at = put_number(put_word(at, name), number);
    return PUT(at, "\n");
}

static uint8_t *put_peer(uint8_t *at, const struct peer *peer, const struct udpring_peer_settings *settings)
{
    at = put_key(PUT(at, "public_key="), settings->public_key);
    at = put_key(PUT(at, "\npreshared_key="), settings->preshared_key);
    at = PUT(at, "\nprotocol_version=1\n");
    if (peer->endpoint.family)
        at = put_endpoint(at, &peer->endpoint);
    at = put_field(at, "last_handshake_time_sec=", settings->handshake_s);
    at = put_field(at, "last_handshake_time_nsec=", settings->handshake_ns);
    at = put_field(at, "tx_bytes=", stamp_get(&peer->tx_bytes));
    at = put_field(at, "rx_bytes=", stamp_get(&peer->rx_bytes));
    at = put_field(at, "persistent_keepalive_interval=", settings->keepalive);
    return put(at, settings->extra, strnlen(settings->extra, sizeof(settings->extra)));
}

static uint8_t *put_prefixes(uint8_t *at, const struct udpring_prefix *prefixes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        at = put_ip(PUT(at, "allowed_ip="), prefixes[i].family, prefixes[i].ip);
        at = put_number(PUT(at, "/"), prefixes[i].cidr);
        at = PUT(at, "\n");
    }
    return at;
}

/* Owner: the caller, on its stack. Thread: the caller's, and worker 0's in between. Nothing to free. */
struct text {
    const struct udpring_peer_settings *peers;
    uint32_t count, taken, needed;
    uint8_t *at, *end;
};

/* -ENOBUFS: no room for this peer. -ENOMEM. */
static int write_peer(const struct udpring_plane *plane, struct text *text, const struct udpring_peer_settings *settings)
{
    struct udpring_prefix few[FEW], *prefixes = few;
    const struct peer *peer = plane_peer(plane, settings->peer);
    if (!peer)
        return 0;
    uint32_t count = trie_list(plane->trie, settings->peer, NULL, 0);
    text->needed = FIXED_MAX + count * PREFIX_MAX;
    if ((size_t)(text->end - text->at) < text->needed)
        return -ENOBUFS;
    if (count > FEW && !(prefixes = malloc(count * sizeof(*prefixes))))
        return -ENOMEM;
    trie_list(plane->trie, settings->peer, prefixes, count);
    text->at = put_prefixes(put_peer(text->at, peer, settings), prefixes, count);
    if (prefixes != few)
        free(prefixes);
    return 0;
}

static int run_text(struct worker *worker, void *argument)
{
    struct text *text = argument;
    int result = 0;
    while (text->taken < text->count && result == 0) {
        result = write_peer(worker->plane, text, &text->peers[text->taken]);
        text->taken += result == 0;
    }
    return result;
}

int32_t udpring_plane_peers_text(struct udpring_plane *plane, const struct udpring_peer_settings *peers, uint32_t count, uint8_t *text,
                                 uint32_t room, uint32_t *taken, uint32_t *needed)
{
    struct text all = {.peers = peers, .count = count, .at = text, .end = text + room};
    int result = plane_call(plane, run_text, &all);
    *taken = all.taken;
    *needed = all.needed;
    return result == -ENOMEM ? result : (int32_t)(all.at - text);
}
