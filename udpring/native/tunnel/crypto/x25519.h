/* X25519 by OpenSSL: the node's static key, and shared secrets. */
#ifndef UDPRING_TUNNEL_CRYPTO_X25519_H
#define UDPRING_TUNNEL_CRYPTO_X25519_H
#include "../../base.h"

#include <openssl/evp.h>

#include "abi.h"

#define X25519_BYTES 32

/* A private key. Owner: its maker. Thread: any, also several at once. Freed, and zeroised by OpenSSL, by x25519_free(). */
struct x25519_key {
    EVP_PKEY *key;
    EVP_PKEY_CTX *spare;   /* atomic: kept for the next derivation, because to make one takes 1.2 us. NULL: none yet, or a thread uses it */
};

/* A private key and its public key.
 * Owner: counted, as Python and handshakes under way share it. Thread: any, as it never changes. Freed with the last reference. */
struct udpring_static_key {
    struct x25519_key *key;
    uint8_t public_key[X25519_BYTES];
    uint32_t references;   /* atomic */
};

void static_key_hold(struct udpring_static_key *key);

/* A private key of 32 random bytes. *public_key is its public key. NULL: no memory, or OpenSSL has no X25519. */
struct x25519_key *x25519_private(const uint8_t private_key[X25519_BYTES], uint8_t public_key[X25519_BYTES]) UR_MUST_CHECK;
/* The shared secret. 0. -EINVAL: it would be all zero, as the public key has small order (RFC 7748, 6.1). -ENOMEM. */
int x25519_shared(struct x25519_key *key, const uint8_t public_key[X25519_BYTES], uint8_t shared[X25519_BYTES]) UR_MUST_CHECK;
void x25519_free(struct x25519_key *key);   /* NULL is fine */
#endif
