/* 1. a message without a valid mac2 comes under load: answered with a cookie (cookie_reply.c seals it)
 * 2. the secret behind our cookies is replaced by the first message that needs one after its time. No timer and no event has
 *    to reach the control loop for that: a flood keeps both away
 * 3. a peer answers us with a cookie: it is opened here, so that only an authentic reply costs the control loop anything */
#include "cookies.h"

#include <sys/random.h>

#include "command.h"
#include "seal.h"

int cookies_renew(struct udpring_plane *plane, uint64_t now)
{
    struct cookie_secrets *cookies = &plane->cookies;
    uint64_t age = now - cookies->born_ns;
    uint8_t fresh[MAC_KEY_BYTES];
    __atomic_store_n(&cookies->renew, 0, __ATOMIC_RELAXED);
    if (cookies->count && age < COOKIE_SECRET_NS)
        return 0;
    if (getrandom(fresh, sizeof(fresh), 0) != sizeof(fresh))
        return -EIO;
    bool still_valid = cookies->count && age < 2 * COOKIE_SECRET_NS;
    if (still_valid)
        memcpy(cookies->secret[1], cookies->secret[0], MAC_KEY_BYTES);
    else
        explicit_bzero(cookies->secret[1], MAC_KEY_BYTES);
    memcpy(cookies->secret[0], fresh, MAC_KEY_BYTES);
    cookies->count = still_valid ? 2 : 1;
    cookies->born_ns = now;
    explicit_bzero(fresh, sizeof(fresh));
    return 0;
}

/* Before a secret is used. With several workers the old secret stays in use until all are stopped, which is soon. */
static void keep_fresh(struct worker *worker)
{
    struct udpring_plane *plane = worker->plane;
    struct cookie_secrets *cookies = &plane->cookies;
    if (ur_likely(worker->now < cookies->born_ns + COOKIE_SECRET_NS))
        return;
    if (!plane_shared(plane))
        (void)cookies_renew(plane, worker->now);
    else if (!__atomic_exchange_n(&cookies->renew, 1, __ATOMIC_RELAXED) && worker->number != 0)
        worker_wake(&plane->workers[0]);
}

/* The cookie of this sender under the present secret (0) or the last one (1). */
static bool cookie_of(struct worker *worker, uint32_t which, const struct udpring_packet *packet,
                      uint8_t cookie[MAC_COOKIE_BYTES])
{
    const struct cookie_secrets *cookies = &worker->plane->cookies;
    uint32_t ip_bytes = packet->source.family == AF_INET ? 4 : 16;
    return which < cookies->count && mac_cookie(&worker->mac, cookies->secret[which], packet->source.ip, ip_bytes,
                                                packet->source.port, cookie) == 0;
}

bool cookies_mac2_valid(struct worker *worker, const struct udpring_packet *packet, const uint8_t *message, uint32_t length)
{
    static const uint8_t none[MAC_BYTES];
    if (memcmp(message + length - MAC_BYTES, none, MAC_BYTES) == 0)   /* zeros: the sender has no cookie */
        return false;
    keep_fresh(worker);
    for (uint32_t which = 0; which < 2; which++) {
        uint8_t cookie[MAC_COOKIE_BYTES];
        if (cookie_of(worker, which, packet, cookie) && mac_check2(&worker->mac, cookie, message, length))
            return true;
    }
    return false;
}

/* A nonce never used before, out of a supply: under a flood a system call for each would cost as much as the sealing. */
static const uint8_t *fresh_nonce(struct worker *worker)
{
    if (!worker->nonces_left) {
        if (getrandom(worker->nonces, sizeof(worker->nonces), 0) != sizeof(worker->nonces))
            return NULL;
        worker->nonces_left = UR_ARRAY_LENGTH(worker->nonces);
    }
    return worker->nonces[--worker->nonces_left];
}

/* A reply costs ten times as much as checking a message, so replies have a rate limit. When half of the burst is used, a
 * cookie that was sent within this second is not sent again: a few busy senders leave replies for the others. */
static bool may_reply(struct worker *worker, const uint8_t cookie[MAC_COOKIE_BYTES])
{
    uint32_t *replied = &worker->replied_s[(cookie[0] | cookie[1] << 8) % COOKIE_SENDERS];
    uint32_t second = (uint32_t)(worker->now / NS_PER_S);
    uint32_t left = rate_refill(&worker->replies, worker->now, COOKIE_REPLY_NS, COOKIE_REPLY_BURST);
    if (!left || (left < COOKIE_REPLY_BURST / 2 && *replied == second))
        return false;
    worker->replies.tokens--;
    *replied = second;
    return true;
}

/* Other handshakes keep their slots. */
void cookies_ask(struct worker *worker, const struct udpring_packet *packet, const uint8_t *message, uint32_t length)
{
    uint8_t cookie[MAC_COOKIE_BYTES], reply[COOKIE_REPLY_BYTES];
    const uint8_t *nonce;
    keep_fresh(worker);
    if (worker->out_free_count < OUT_SLOTS_RESERVED / 2 || !cookie_of(worker, 0, packet, cookie) ||
        !may_reply(worker, cookie) || !(nonce = fresh_nonce(worker)) ||
        cookie_reply_make(&worker->cookie_sealer, worker->plane->cookie_key, nonce, message + 4, message + length - 2 * MAC_BYTES, cookie,
                          reply) != 0)
        return;
    memcpy(reply + 1, message + 1, 3);   /* with the marking of the message that it answers */
    /* The socket counts a refused send. The sender will ask again. */
    (void)seal_message(worker, NULL, reply, sizeof(reply), 0, &packet->source, &packet->local,
                       routes_reply_interface(&worker->plane->routes, &packet->source, &packet->local, packet->interface_index));
}

void cookies_await(struct peer *peer, const uint8_t *message, uint32_t length, const uint8_t key[MAC_KEY_BYTES])
{
    struct cookie_awaited *awaited = &peer->cookie_awaited;
    memcpy(awaited->mark, message + 1, sizeof(awaited->mark));
    memcpy(awaited->sender, message + 4, sizeof(awaited->sender));
    memcpy(awaited->mac1, message + length - 2 * MAC_BYTES, MAC_BYTES);
    memcpy(awaited->key, key, MAC_KEY_BYTES);
    __atomic_store_n(&awaited->waits, true, __ATOMIC_RELAXED);
}

void cookies_forget(struct peer *peer)
{
    __atomic_store_n(&peer->cookie_awaited.waits, false, __ATOMIC_RELAXED);
}

bool cookies_awaited(const struct peer *peer, const uint8_t *reply)
{
    const struct cookie_awaited *awaited = &peer->cookie_awaited;
    return __atomic_load_n(&awaited->waits, __ATOMIC_RELAXED) && memcmp(awaited->mark, reply + 1, sizeof(awaited->mark)) == 0 &&
           memcmp(awaited->sender, reply + 4, sizeof(awaited->sender)) == 0;
}

bool cookies_open(struct worker *worker, const struct peer *peer, const uint8_t *reply)
{
    uint8_t cookie[MAC_COOKIE_BYTES];
    const struct cookie_awaited *awaited = &peer->cookie_awaited;
    bool authentic = cookie_reply_open(&worker->cookie_sealer, awaited->key, reply, awaited->mac1, cookie) == 0;
    explicit_bzero(cookie, sizeof(cookie));
    return authentic;
}
