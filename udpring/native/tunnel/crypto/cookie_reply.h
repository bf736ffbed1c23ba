/* The cookie reply (whitepaper 5.4.7): the answer of a node under load to a handshake message without a valid mac2. The core
 * makes and opens replies itself, fast enough for a flood: otherwise an honest peer would not get its cookie in one. */
#ifndef UDPRING_TUNNEL_CRYPTO_COOKIE_REPLY_H
#define UDPRING_TUNNEL_CRYPTO_COOKIE_REPLY_H
#include "../../base.h"

#include <openssl/evp.h>

#include "mac.h"

#define COOKIE_REPLY_BYTES 64
#define COOKIE_NONCE_BYTES 24

/* A ChaCha20-Poly1305 context, and one of ChaCha20 that makes its key. Both keyed anew for each reply.
 * Owner: who embeds it. Thread: one. Freed, and zeroised, by cookie_sealer_close(). */
struct cookie_sealer {
    EVP_CIPHER *cipher, *block_cipher;
    EVP_CIPHER_CTX *context, *block;
};

int cookie_sealer_open(struct cookie_sealer *sealer, struct udpring_reason *why) UR_MUST_CHECK;   /* 0, -ENOMEM, -ENOTSUP */
void cookie_sealer_close(struct cookie_sealer *sealer);   /* idempotent. Fine on a zeroed sealer */

/* The reply to a message whose sender index and mac1 are given. key: HASH("cookie--" || our public key). 0, -EIO. */
int cookie_reply_make(struct cookie_sealer *sealer, const uint8_t key[32], const uint8_t nonce[COOKIE_NONCE_BYTES],
                      const uint8_t sender[4], const uint8_t mac1[MAC_BYTES], const uint8_t cookie[MAC_COOKIE_BYTES],
                      uint8_t reply[COOKIE_REPLY_BYTES]) UR_MUST_CHECK;
/* The cookie in the reply to a message with this mac1. key: the hash of the replying peer's public key. 0, -EBADMSG: not
 * authentic. */
int cookie_reply_open(struct cookie_sealer *sealer, const uint8_t key[32], const uint8_t reply[COOKIE_REPLY_BYTES],
                      const uint8_t mac1[MAC_BYTES], uint8_t cookie[MAC_COOKIE_BYTES]) UR_MUST_CHECK;
#endif
