#include "x25519.h"

#include "../../secret.h"

#include <openssl/err.h>
#include <stdlib.h>

EVP_PKEY *x25519_private(const uint8_t private_key[X25519_BYTES], uint8_t public_key[X25519_BYTES])
{
    size_t length = X25519_BYTES;
    EVP_PKEY *key = EVP_PKEY_new_raw_private_key_ex(NULL, "X25519", NULL, private_key, X25519_BYTES);
    secret_see_heap();
    if (key && EVP_PKEY_get_raw_public_key(key, public_key, &length) == 1)
        return key;
    EVP_PKEY_free(key);
    ERR_clear_error();
    return NULL;
}

int x25519_shared(EVP_PKEY *key, const uint8_t public_key[X25519_BYTES], uint8_t shared[X25519_BYTES])
{
    size_t length = X25519_BYTES;
    int result = -ENOMEM;
    EVP_PKEY *peer = EVP_PKEY_new_raw_public_key_ex(NULL, "X25519", NULL, public_key, X25519_BYTES);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
    /* Without the library's own check of the peer's key: it would repeat the test for a zero result, which the derivation makes. */
    if (peer && context && EVP_PKEY_derive_init(context) == 1 && EVP_PKEY_derive_set_peer_ex(context, peer, 0) == 1)
        result = EVP_PKEY_derive(context, shared, &length) == 1 && length == X25519_BYTES ? 0 : -EINVAL;
    if (result)
        ERR_clear_error();
    EVP_PKEY_CTX_free(context);
    EVP_PKEY_free(peer);
    return result;
}

/* ---- the static key ---- */

struct udpring_static_key *udpring_static_key_new(const uint8_t *private_key, uint8_t *public_key)
{
    struct udpring_static_key *key = calloc(1, sizeof(*key));
    if (!key || !(key->key = x25519_private(private_key, key->public_key))) {
        free(key);
        return NULL;
    }
    key->references = 1;
    memcpy(public_key, key->public_key, sizeof(key->public_key));
    return key;
}

void static_key_hold(struct udpring_static_key *key)
{
    __atomic_add_fetch(&key->references, 1, __ATOMIC_RELAXED);
}

void udpring_static_key_free(struct udpring_static_key *key)
{
    if (!key || __atomic_sub_fetch(&key->references, 1, __ATOMIC_ACQ_REL))
        return;
    EVP_PKEY_free(key->key);
    free(key);
}

int32_t udpring_static_key_shared(const struct udpring_static_key *key, const uint8_t *public_key, uint8_t *shared)
{
    return x25519_shared(key->key, public_key, shared);
}
