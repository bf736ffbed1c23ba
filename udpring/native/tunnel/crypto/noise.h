/* Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, and the same with AESGCM, as WireGuard uses it (whitepaper, section 5.4). All primitives
 * are OpenSSL's. udpring/wireguard/noise.py is the reference, and tests/tunnel/test_native_noise.py compares the two.
 *
 *   initiator: noise_initiate -> message (108 bytes) ... noise_finish <- response (48 bytes)
 *   responder: udpring_handshake_open <- initiation, udpring_handshake_prove, noise_respond -> message (48 bytes)
 *
 * A step that fails changes nothing: a forged response must not end the handshake that it claims to answer. Every key of the pattern
 * seals one message, so each nonce is zero. */
#ifndef UDPRING_TUNNEL_CRYPTO_NOISE_H
#define UDPRING_TUNNEL_CRYPTO_NOISE_H
#include "../../base.h"

#include "abi.h"
#include "x25519.h"

#define NOISE_HASH_BYTES 32
#define NOISE_TAG_BYTES 16
#define NOISE_SEALED_KEY (X25519_BYTES + NOISE_TAG_BYTES)

_Static_assert(UDPRING_NOISE_INITIATION == X25519_BYTES + NOISE_SEALED_KEY + UDPRING_NOISE_TIMESTAMP + NOISE_TAG_BYTES, "wire format");
_Static_assert(UDPRING_NOISE_RESPONSE == X25519_BYTES + NOISE_TAG_BYTES, "wire format");

/* What the steps need, which load it themselves too. 0, or -ENOTSUP with the reason. */
int noise_load(struct udpring_reason *why) UR_MUST_CHECK;
/* 0, or as the steps in abi.h. static_static: the shared secret of both static keys. ephemeral: 32 fresh random bytes. psk: zeros if
 * there is none. */
int noise_initiate(struct udpring_handshake *handshake, const struct udpring_static_key *key, const uint8_t *remote,
                   const uint8_t *static_static, const uint8_t *ephemeral, const uint8_t *timestamp) UR_MUST_CHECK;
/* keys: 64 bytes, the sending and the receiving key. Several threads may try responses to one handshake at once. */
int noise_finish(const struct udpring_handshake *handshake, const struct udpring_static_key *key, const uint8_t *response,
                 const uint8_t *psk, uint8_t *keys) UR_MUST_CHECK;
int noise_respond(struct udpring_handshake *handshake, const uint8_t *ephemeral, const uint8_t *psk) UR_MUST_CHECK;
#endif
