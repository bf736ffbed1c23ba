#include "x25519.h"

#include "../../secret.h"

#include <openssl/core_names.h>
#include <openssl/err.h>
#include <openssl/params.h>
#include <pthread.h>
#include <stdlib.h>

static const uint8_t base_point[X25519_BYTES] = {9};   /* RFC 7748, section 4.1 */

/* ---- what each thread keeps ----
 * `peer` holds the public key of the other side of the present handshake. To make such an object takes 3 us, to set its bytes much
 * less. `maker` makes private keys. A new context would look the algorithm up by name, which takes 3 to 8 us. Neither holds a
 * secret. Owner: the thread, at whose end both are freed. */
struct of_thread {
    EVP_PKEY *peer;
    EVP_PKEY_CTX *maker;
};
static pthread_key_t slot;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static bool has_slot;

static void of_thread_free(void *memory)
{
    struct of_thread *kept = memory;
    EVP_PKEY_free(kept->peer);
    EVP_PKEY_CTX_free(kept->maker);
    free(kept);
}

static void make_slot(void)
{
    has_slot = pthread_key_create(&slot, of_thread_free) == 0;
}

/* NULL: no memory. */
static struct of_thread *of_this_thread(void)
{
    pthread_once(&once, make_slot);
    struct of_thread *kept = has_slot ? pthread_getspecific(slot) : NULL;
    if (kept || !has_slot || !(kept = calloc(1, sizeof(*kept))))
        return kept;
    kept->peer = EVP_PKEY_new_raw_public_key_ex(NULL, "X25519", NULL, base_point, X25519_BYTES);
    kept->maker = EVP_PKEY_CTX_new_from_name(NULL, "X25519", NULL);
    if (kept->peer && kept->maker && EVP_PKEY_fromdata_init(kept->maker) == 1 && pthread_setspecific(slot, kept) == 0)
        return kept;
    of_thread_free(kept);
    return NULL;
}

/* ---- shared secrets ---- */

static EVP_PKEY_CTX *context_take(struct x25519_key *key)
{
    EVP_PKEY_CTX *context = __atomic_exchange_n(&key->spare, NULL, __ATOMIC_ACQUIRE);
    if (context)
        return context;
    context = EVP_PKEY_CTX_new_from_pkey(NULL, key->key, NULL);
    if (context && EVP_PKEY_derive_init(context) == 1)
        return context;
    EVP_PKEY_CTX_free(context);
    return NULL;
}

static void context_give_back(struct x25519_key *key, EVP_PKEY_CTX *context)
{
    EVP_PKEY_CTX *none = NULL;
    if (!__atomic_compare_exchange_n(&key->spare, &none, context, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED))
        EVP_PKEY_CTX_free(context);
}

int x25519_shared(struct x25519_key *key, const uint8_t public_key[X25519_BYTES], uint8_t shared[X25519_BYTES])
{
    size_t length = X25519_BYTES;
    int result = -ENOMEM;
    const struct of_thread *kept = of_this_thread();
    EVP_PKEY_CTX *context = kept ? context_take(key) : NULL;
    /* Without the library's own check of the peer's key: it would repeat the test for a zero result, which the derivation makes. */
    if (context && EVP_PKEY_set1_encoded_public_key(kept->peer, public_key, X25519_BYTES) == 1 &&
        EVP_PKEY_derive_set_peer_ex(context, kept->peer, 0) == 1)
        result = EVP_PKEY_derive(context, shared, &length) == 1 && length == X25519_BYTES ? 0 : -EINVAL;
    if (result) {
        ERR_clear_error();
        EVP_PKEY_CTX_free(context);
    } else {
        context_give_back(key, context);
    }
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
    const struct of_thread *kept = of_this_thread();
    if (kept)
        (void)EVP_PKEY_fromdata(kept->maker, &key, EVP_PKEY_KEYPAIR, parameters);
    secret_see_heap();
    if (!key)
        ERR_clear_error();
    return key;
}

/* For an OpenSSL that refuses the placeholder. */
static EVP_PKEY *private_whole(const uint8_t private_key[X25519_BYTES], uint8_t public_key[X25519_BYTES])
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

struct x25519_key *x25519_private(const uint8_t private_key[X25519_BYTES], uint8_t public_key[X25519_BYTES])
{
    struct x25519_key *made = calloc(1, sizeof(*made));
    if (!made)
        return NULL;
    made->key = private_alone(private_key);
    if (made->key && x25519_shared(made, base_point, public_key) == 0)
        return made;
    EVP_PKEY_free(made->key);
    made->key = private_whole(private_key, public_key);
    if (made->key)
        return made;
    free(made);
    return NULL;
}

void x25519_free(struct x25519_key *key)
{
    if (!key)
        return;
    EVP_PKEY_CTX_free(key->spare);
    EVP_PKEY_free(key->key);
    free(key);
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
    x25519_free(key->key);
    free(key);
}

int32_t udpring_static_key_shared(const struct udpring_static_key *key, const uint8_t *public_key, uint8_t *shared)
{
    return x25519_shared(key->key, public_key, shared);
}
