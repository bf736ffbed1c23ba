#include "x25519.h"

#include "../../secret.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/params.h>
#include <pthread.h>
#include <stdlib.h>

static const uint8_t base_point[X25519_BYTES] = {9};   /* RFC 7748, section 4.1 */

/* ---- the public key of the other side ----
 * One object a thread, which takes each key in turn: to make one takes 3 us, to set its bytes next to nothing. It holds nothing secret.
 * Owner: the thread, at whose end it is freed. */
static pthread_key_t peer_of_thread;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool has_slot;

static void peer_free(void *peer)
{
    EVP_PKEY_free(peer);
}

static void make_slot(void)
{
    has_slot = pthread_key_create(&peer_of_thread, peer_free) == 0;
}

/* NULL: no memory. The next call in this thread changes it. */
static EVP_PKEY *peer_with(const uint8_t public_key[X25519_BYTES])
{
    pthread_once(&once, make_slot);
    EVP_PKEY *peer = has_slot ? pthread_getspecific(peer_of_thread) : NULL;
    if (!peer) {
        peer = EVP_PKEY_new_raw_public_key_ex(NULL, "X25519", NULL, base_point, X25519_BYTES);
        if (!peer || !has_slot || pthread_setspecific(peer_of_thread, peer) != 0) {
            EVP_PKEY_free(peer);
            return NULL;
        }
    }
    return EVP_PKEY_set1_encoded_public_key(peer, public_key, X25519_BYTES) == 1 ? peer : NULL;
}

int x25519_shared(EVP_PKEY *key, const uint8_t public_key[X25519_BYTES], uint8_t shared[X25519_BYTES])
{
    size_t length = X25519_BYTES;
    int result = -ENOMEM;
    EVP_PKEY *peer = peer_with(public_key);
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_pkey(NULL, key, NULL);
    /* Without the library's own check of the peer's key: it would repeat the test for a zero result, which the derivation makes. */
    if (peer && context && EVP_PKEY_derive_init(context) == 1 && EVP_PKEY_derive_set_peer_ex(context, peer, 0) == 1)
        result = EVP_PKEY_derive(context, shared, &length) == 1 && length == X25519_BYTES ? 0 : -EINVAL;
    if (result)
        ERR_clear_error();
    EVP_PKEY_CTX_free(context);
    return result;
}

/* ---- private keys ---- */

/* A key object with a placeholder for the public key. OpenSSL would else compute that in 38 us, and its Diffie-Hellman with the base
 * point, which gives the same bytes, takes 32. No derivation reads the placeholder. NULL: the library refuses it, or no memory. */
static EVP_PKEY *private_alone(const uint8_t private_key[X25519_BYTES])
{
    OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PRIV_KEY, (void *)private_key, X25519_BYTES),
        OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, (void *)base_point, X25519_BYTES),
        OSSL_PARAM_construct_end(),
    };
    EVP_PKEY *key = NULL;
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "X25519", NULL);
    if (context && EVP_PKEY_fromdata_init(context) == 1)
        (void)EVP_PKEY_fromdata(context, &key, EVP_PKEY_KEYPAIR, parameters);
    EVP_PKEY_CTX_free(context);
    secret_see_heap();
    if (!key)
        ERR_clear_error();
    return key;
}

EVP_PKEY *x25519_private(const uint8_t private_key[X25519_BYTES], uint8_t public_key[X25519_BYTES])
{
    size_t length = X25519_BYTES;
    EVP_PKEY *key = private_alone(private_key);
    if (key && x25519_shared(key, base_point, public_key) == 0)
        return key;
    EVP_PKEY_free(key);
    key = EVP_PKEY_new_raw_private_key_ex(NULL, "X25519", NULL, private_key, X25519_BYTES);
    secret_see_heap();
    if (key && EVP_PKEY_get_raw_public_key(key, public_key, &length) == 1)
        return key;
    EVP_PKEY_free(key);
    ERR_clear_error();
    return NULL;
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
