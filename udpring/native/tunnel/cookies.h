/* Cookies (whitepaper 5.3 and 5.4.7), both ways: those that we give to who asks under load, and those that a peer under load
 * gives to us. */
#ifndef UDPRING_TUNNEL_COOKIES_H
#define UDPRING_TUNNEL_COOKIES_H
#include "../base.h"
#include "mac.h"

struct peer;
struct udpring_packet;
struct udpring_plane;
struct worker;

/* The secret that our cookies are made from, and the one before it, which stays valid for as long.
 * Owner: the plane. Thread: read by any worker in a pass, changed by worker 0 while all stand. Freed, and
 * zeroised, with the plane. */
struct cookie_secrets {
    uint8_t secret[2][MAC_KEY_BYTES];   /* present, last */
    uint32_t count;                     /* 2: the last one is valid, too */
    uint64_t born_ns;
    uint32_t renew;                     /* atomic: worker 0 is to replace it */
};

/* The last handshake message that we sent to a peer, as a cookie reply names it.
 * Owner: the peer. Thread: changed while all workers stand; `waits` is atomic. Nothing to free. */
struct cookie_awaited {
    bool waits;
    uint8_t mark[3];                    /* the bytes behind its type */
    uint8_t sender[4];                  /* its sender index */
    uint8_t mac1[MAC_BYTES];
    uint8_t key[MAC_KEY_BYTES];         /* HASH("cookie--" || the peer's public key) */
};

/* ---- ours ---- */

/* A new secret where the present one is COOKIE_SECRET_NS old, or none is there. While all workers stand, or before any runs.
 * 0, or -EIO: no randomness, and the old one stays. */
int cookies_renew(struct udpring_plane *plane, uint64_t now);
/* Is a cookie that this sender got from us behind this mac2? */
bool cookies_mac2_valid(struct worker *worker, const struct udpring_packet *packet, const uint8_t *message, uint32_t length);
/* Answers a message without a valid mac2, from the address that it came to, while there are slots and tokens. */
void cookies_ask(struct worker *worker, const struct udpring_packet *packet, const uint8_t *message, uint32_t length);

/* ---- a peer's ---- */

/* This initiation or response goes to the peer: from now on its cookie reply is waited for, and no older one. */
void cookies_await(struct peer *peer, const uint8_t *message, uint32_t length, const uint8_t key[MAC_KEY_BYTES]);
/* The handshake is done, or its reply was taken. */
void cookies_forget(struct peer *peer);
/* Whether this cookie reply names the message that waits for one. */
bool cookies_awaited(const struct peer *peer, const uint8_t *reply);
/* And is authentic: the cookie itself is left to the control loop. */
bool cookies_open(struct worker *worker, const struct peer *peer, const uint8_t *reply);
#endif
