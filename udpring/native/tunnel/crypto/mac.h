/* mac1, mac2 and the cookie (whitepaper 5.4.4, 5.4.7): BLAKE2s keyed with 32 bytes or a cookie's 16, 16 bytes out. */
#ifndef UDPRING_TUNNEL_CRYPTO_MAC_H
#define UDPRING_TUNNEL_CRYPTO_MAC_H
#include "../../base.h"

#include <openssl/evp.h>

#define MAC_BYTES 16
#define MAC_KEY_BYTES 32
#define MAC_COOKIE_BYTES 16

/* One BLAKE2s context, used for message after message without allocating.
 * Owner: who embeds it. Thread: one. Freed, and zeroised, by mac_engine_close(). */
struct mac_engine {
    EVP_MAC *mac;
    EVP_MAC_CTX *context;
};

int mac_engine_open(struct mac_engine *engine, struct udpring_reason *why) UR_MUST_CHECK;   /* 0, -ENOMEM, -ENOTSUP */
void mac_engine_close(struct mac_engine *engine);    /* idempotent. Fine on a zeroed engine */

/* A handshake message ends in mac1 (16 bytes), mac2 (16 bytes). true: the mac is right. false: it is wrong, the message is
 * too short to hold it, or the library failed. Compared in constant time. */
bool mac_check1(struct mac_engine *engine, const uint8_t mac1_key[MAC_KEY_BYTES], const uint8_t *message, uint32_t length);
bool mac_check2(struct mac_engine *engine, const uint8_t cookie[MAC_COOKIE_BYTES], const uint8_t *message, uint32_t length);
/* The cookie for a source: MAC(secret, IP || port, big endian). ip_length 4 or 16. 0, -EINVAL, -EIO. */
int mac_cookie(struct mac_engine *engine, const uint8_t secret[MAC_KEY_BYTES], const uint8_t *ip, uint32_t ip_length,
               uint16_t port_host_order, uint8_t cookie[MAC_COOKIE_BYTES]) UR_MUST_CHECK;
#endif
