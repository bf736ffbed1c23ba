/* Cookies (whitepaper 5.3 and 5.4.7) in both directions: those that this node sends under load, and those that a peer under
 * load sends to it. */
#ifndef UDPRING_TUNNEL_WORKER_COOKIES_H
#define UDPRING_TUNNEL_WORKER_COOKIES_H
#include "state.h"

/* ---- sent by this node ---- */

/* Makes a new secret if there is none or if the present one is COOKIE_SECRET_NS old. Call it while all workers are stopped, or
 * before any runs. 0, or -EIO: no randomness, and the old one stays. */
int cookies_renew(struct udpring_plane *plane, uint64_t now);
/* Whether mac2 was made with the cookie that this node sent to this address. */
bool cookies_mac2_valid(struct worker *worker, const struct udpring_packet *packet, const uint8_t *message, uint32_t length);
/* Answers a message without a valid mac2, from the address that it came to, while there are slots and tokens. */
void cookies_ask(struct worker *worker, const struct udpring_packet *packet, const uint8_t *message, uint32_t length);

/* ---- received from a peer ---- */

/* This initiation or response goes to the peer: from now on its cookie reply is waited for, and no older one. */
void cookies_await(struct peer *peer, const uint8_t *message, uint32_t length, const uint8_t key[MAC_KEY_BYTES]);
/* The handshake is done, or its reply was taken. */
void cookies_forget(struct peer *peer);
/* Whether this cookie reply names the message that waits for one. */
bool cookies_awaited(const struct peer *peer, const uint8_t *reply);
/* And is authentic: the cookie itself is left to the control loop. */
bool cookies_open(struct worker *worker, const struct peer *peer, const uint8_t *reply);
#endif
