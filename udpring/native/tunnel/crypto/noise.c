#include "noise.h"

#include "../../secret.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <pthread.h>

#include "aead.h"

/* Fetched once and kept for the life of the process. `hmac` is copied for each use, because a look-up of the hash by its name takes
 * longer than the MAC. */
static struct {
    EVP_MD *blake2s;
    EVP_MAC_CTX *hmac;
    bool loaded;   /* atomic */
} algorithms;
static pthread_mutex_t load_lock = PTHREAD_MUTEX_INITIALIZER;

/* Again after a failure, which may be a short lack of memory. */
static void load(void)
{
    OSSL_PARAM parameters[] = { OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char[]){"BLAKE2S-256"}, 0),
                                OSSL_PARAM_construct_end() };
    EVP_MAC *hmac = EVP_MAC_fetch(NULL, OSSL_MAC_NAME_HMAC, NULL);
    EVP_MD *blake2s = EVP_MD_fetch(NULL, "BLAKE2S-256", NULL);
    EVP_MAC_CTX *context = hmac ? EVP_MAC_CTX_new(hmac) : NULL;
    if (blake2s && context && EVP_MAC_CTX_set_params(context, parameters)) {
        algorithms.blake2s = blake2s;
        algorithms.hmac = context;
        __atomic_store_n(&algorithms.loaded, true, __ATOMIC_RELEASE);
    } else {
        EVP_MD_free(blake2s);
        EVP_MAC_CTX_free(context);
        ERR_clear_error();
    }
    EVP_MAC_free(hmac);
}

int noise_load(struct udpring_reason *why)
{
    if (__atomic_load_n(&algorithms.loaded, __ATOMIC_ACQUIRE))
        return 0;
    pthread_mutex_lock(&load_lock);
    if (!algorithms.loaded)
        load();
    bool loaded = algorithms.loaded;
    pthread_mutex_unlock(&load_lock);
    return loaded ? 0 : ur_fail(why, -ENOTSUP, "OpenSSL offers no BLAKE2s: is its default provider disabled (FIPS)?");
}

/* What is fixed of a cipher: udpring/wireguard/cipher.py has the same. */
static const struct {
    const char *construction, *prologue;
} names[UDPRING_CIPHER_COUNT] = {
    [UDPRING_CIPHER_CHACHA20_POLY1305] = {"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s", "WireGuard v1 zx2c4 Jason@zx2c4.com"},
    [UDPRING_CIPHER_AES_256_GCM] = {"Noise_IKpsk2_25519_AESGCM_BLAKE2s", "udpring v1 AES-256-GCM"},
};

/* ---- the symmetric state (Noise, section 5.2) ----
 * Owner: one step of a handshake, on its stack. Thread: its own. Freed and zeroised by symmetric_close(). The first failure stays in
 * `failed`, so that a step is written without a test behind each line. */
struct symmetric {
    EVP_MD_CTX *digest;
    EVP_MAC_CTX *hmac;
    const struct aead_impl *aead;
    int failed;
    uint8_t chaining_key[NOISE_HASH_BYTES], hash[NOISE_HASH_BYTES], key[NOISE_HASH_BYTES];
};

static void fail(struct symmetric *state, int code)
{
    if (!state->failed)
        state->failed = code;
}

static void digest(struct symmetric *state, const void *first, size_t first_length, const void *second, size_t second_length)
{
    if (state->failed)
        return;
    if (!EVP_DigestInit_ex2(state->digest, algorithms.blake2s, NULL) || !EVP_DigestUpdate(state->digest, first, first_length) ||
        !EVP_DigestUpdate(state->digest, second, second_length) || !EVP_DigestFinal_ex(state->digest, state->hash, NULL))
        fail(state, -EIO);
}

static void mix_hash(struct symmetric *state, const void *data, size_t length)
{
    digest(state, state->hash, sizeof(state->hash), data, length);
}

static void hmac(struct symmetric *state, const uint8_t key[NOISE_HASH_BYTES], const uint8_t *data, size_t length,
                 uint8_t out[NOISE_HASH_BYTES])
{
    size_t written = 0;
    if (state->failed)
        return;
    if (!EVP_MAC_init(state->hmac, key, NOISE_HASH_BYTES, NULL) || !EVP_MAC_update(state->hmac, data, length) ||
        !EVP_MAC_final(state->hmac, out, &written, NOISE_HASH_BYTES) || written != NOISE_HASH_BYTES)
        fail(state, -EIO);
}

/* HKDF (Noise, section 4.3): `count` outputs, one behind the other. */
static void hkdf(struct symmetric *state, const uint8_t *material, size_t length, uint8_t *out, unsigned count)
{
    uint8_t secret[NOISE_HASH_BYTES] = {0}, block[NOISE_HASH_BYTES + 1];
    hmac(state, state->chaining_key, material, length, secret);
    for (unsigned i = 0; i < count; i++) {
        size_t before = i ? NOISE_HASH_BYTES : 0;
        if (i)
            memcpy(block, out + (i - 1) * NOISE_HASH_BYTES, NOISE_HASH_BYTES);
        block[before] = (uint8_t)(i + 1);
        hmac(state, secret, block, before + 1, out + i * NOISE_HASH_BYTES);
    }
    OPENSSL_cleanse(secret, sizeof(secret));
    OPENSSL_cleanse(block, sizeof(block));
}

/* Where another key follows before any is used: the whitepaper's KDF1 in place of KDF2. */
static void mix_chain(struct symmetric *state, const uint8_t material[X25519_BYTES])
{
    uint8_t derived[NOISE_HASH_BYTES] = {0};
    hkdf(state, material, X25519_BYTES, derived, 1);
    memcpy(state->chaining_key, derived, NOISE_HASH_BYTES);
    OPENSSL_cleanse(derived, sizeof(derived));
}

static void mix_key(struct symmetric *state, const uint8_t material[X25519_BYTES])
{
    uint8_t derived[2 * NOISE_HASH_BYTES] = {0};
    hkdf(state, material, X25519_BYTES, derived, 2);
    memcpy(state->chaining_key, derived, NOISE_HASH_BYTES);
    memcpy(state->key, derived + NOISE_HASH_BYTES, NOISE_HASH_BYTES);
    OPENSSL_cleanse(derived, sizeof(derived));
}

static void mix_key_and_hash(struct symmetric *state, const uint8_t psk[X25519_BYTES])
{
    uint8_t derived[3 * NOISE_HASH_BYTES] = {0};
    hkdf(state, psk, X25519_BYTES, derived, 3);
    memcpy(state->chaining_key, derived, NOISE_HASH_BYTES);
    mix_hash(state, derived + NOISE_HASH_BYTES, NOISE_HASH_BYTES);
    memcpy(state->key, derived + 2 * NOISE_HASH_BYTES, NOISE_HASH_BYTES);
    OPENSSL_cleanse(derived, sizeof(derived));
}

/* mix: mix_key(), or mix_chain() if the key is not used. */
static void mix_shared(struct symmetric *state, struct x25519_key *key, const uint8_t public_key[X25519_BYTES],
                       void (*mix)(struct symmetric *, const uint8_t *))
{
    uint8_t shared[X25519_BYTES] = {0};
    if (state->failed)
        return;
    int result = x25519_shared(key, public_key, shared);
    if (result)
        fail(state, result);
    else
        mix(state, shared);
    OPENSSL_cleanse(shared, sizeof(shared));
}

/* The token e: in PSK patterns it mixes the key as well (Noise, section 9.2). */
static void mix_ephemeral(struct symmetric *state, const uint8_t public_key[X25519_BYTES])
{
    mix_hash(state, public_key, X25519_BYTES);
    mix_chain(state, public_key);
}

static const uint8_t first_nonce[AEAD_NONCE_BYTES];

static void encrypt_and_hash(struct symmetric *state, const uint8_t *plaintext, uint32_t length, uint8_t *sealed)
{
    if (length)
        memcpy(sealed, plaintext, length);
    if (state->failed)
        return;
    fail(state, state->aead->one_shot(true, state->key, first_nonce, state->hash, sizeof(state->hash), sealed, length));
    mix_hash(state, sealed, length + NOISE_TAG_BYTES);
}

/* length: with the tag. plaintext has room for the tag too. */
static void decrypt_and_hash(struct symmetric *state, const uint8_t *sealed, uint32_t length, uint8_t *plaintext)
{
    memcpy(plaintext, sealed, length);
    if (state->failed)
        return;
    fail(state, state->aead->one_shot(false, state->key, first_nonce, state->hash, sizeof(state->hash), plaintext, length));
    mix_hash(state, sealed, length);
}

static int symmetric_open(struct symmetric *state, const struct udpring_handshake *handshake)
{
    *state = (struct symmetric){0};
    if (handshake->cipher < 0 || handshake->cipher >= UDPRING_CIPHER_COUNT)
        return -EINVAL;
    state->aead = aead_of_openssl((enum udpring_cipher)handshake->cipher);
    if (noise_load(NULL) || !state->aead)
        return -ENOTSUP;
    state->digest = EVP_MD_CTX_new();
    state->hmac = EVP_MAC_CTX_dup(algorithms.hmac);
    if (!state->digest || !state->hmac)
        return -ENOMEM;
    memcpy(state->chaining_key, handshake->chaining_key, sizeof(state->chaining_key));
    memcpy(state->hash, handshake->hash, sizeof(state->hash));
    return 0;
}

static int symmetric_close(struct symmetric *state)
{
    int result = state->failed;
    if (result)
        ERR_clear_error();
    EVP_MD_CTX_free(state->digest);
    EVP_MAC_CTX_free(state->hmac);
    OPENSSL_cleanse(state, sizeof(*state));
    return result;
}

/* Closes, and keeps the state in the handshake if the step succeeded. */
static int step_close(struct symmetric *state, struct udpring_handshake *handshake, uint32_t step)
{
    if (!state->failed) {
        memcpy(handshake->chaining_key, state->chaining_key, sizeof(handshake->chaining_key));
        memcpy(handshake->hash, state->hash, sizeof(handshake->hash));
        handshake->step = step;
    }
    return symmetric_close(state);
}

static int step_open(struct symmetric *state, const struct udpring_handshake *handshake, uint32_t step)
{
    int result = handshake->step == step ? symmetric_open(state, handshake) : -EPROTO;
    if (result)
        state->failed = result;
    return result;
}

/* The state before the first message, to the responder with this static key. */
static int begin(struct symmetric *state, const struct udpring_handshake *handshake, const uint8_t responder[X25519_BYTES])
{
    int result = step_open(state, handshake, UDPRING_HANDSHAKE_NEW);
    if (result)
        return result;
    const char *construction = names[handshake->cipher].construction, *prologue = names[handshake->cipher].prologue;
    size_t length = strlen(construction);
    if (length > NOISE_HASH_BYTES)
        digest(state, construction, length, NULL, 0);
    else
        memcpy(memset(state->hash, 0, sizeof(state->hash)), construction, length);
    memcpy(state->chaining_key, state->hash, sizeof(state->chaining_key));
    mix_hash(state, prologue, strlen(prologue));
    mix_hash(state, responder, X25519_BYTES);
    return state->failed;
}

/* The transport keys of the initiator: sending, receiving. */
static void split(struct symmetric *state, uint8_t keys[2 * NOISE_HASH_BYTES])
{
    hkdf(state, NULL, 0, keys, 2);
}

/* ---- the initiator ---- */

int noise_initiate(struct udpring_handshake *handshake, const struct udpring_static_key *key, const uint8_t *remote,
                   const uint8_t *static_static, const uint8_t *ephemeral, const uint8_t *timestamp)
{
    struct symmetric state = {0};
    uint8_t message[UDPRING_NOISE_INITIATION];
    struct x25519_key *private_key = NULL;
    if (begin(&state, handshake, remote) == 0 && !(private_key = x25519_private(ephemeral, message)))
        fail(&state, -ENOMEM);
    if (!state.failed) {
        mix_ephemeral(&state, message);
        mix_shared(&state, private_key, remote, mix_key);
        encrypt_and_hash(&state, key->public_key, X25519_BYTES, message + X25519_BYTES);
        mix_key(&state, static_static);
        encrypt_and_hash(&state, timestamp, UDPRING_NOISE_TIMESTAMP, message + X25519_BYTES + NOISE_SEALED_KEY);
    }
    if (state.failed) {
        x25519_free(private_key);
    } else {
        memcpy(handshake->message, message, sizeof(message));
        handshake->ephemeral = private_key;
    }
    return step_close(&state, handshake, UDPRING_HANDSHAKE_INITIATED);
}

int noise_finish(const struct udpring_handshake *handshake, const struct udpring_static_key *key, const uint8_t *response,
                 const uint8_t *psk, uint8_t *keys)
{
    struct symmetric state = {0};
    uint8_t nothing[NOISE_TAG_BYTES], both[2 * NOISE_HASH_BYTES] = {0};
    if (step_open(&state, handshake, UDPRING_HANDSHAKE_INITIATED) == 0) {
        mix_ephemeral(&state, response);
        mix_shared(&state, handshake->ephemeral, response, mix_chain);
        mix_shared(&state, key->key, response, mix_chain);
        mix_key_and_hash(&state, psk);
        decrypt_and_hash(&state, response + X25519_BYTES, NOISE_TAG_BYTES, nothing);
        split(&state, both);
    }
    if (!state.failed)
        memcpy(keys, both, sizeof(both));
    OPENSSL_cleanse(both, sizeof(both));
    return symmetric_close(&state);
}

/* ---- the responder ---- */

int32_t udpring_handshake_open(struct udpring_handshake *handshake, const struct udpring_static_key *key, const uint8_t *initiation)
{
    struct symmetric state = {0};
    uint8_t remote[NOISE_SEALED_KEY];
    if (begin(&state, handshake, key->public_key) == 0) {
        mix_ephemeral(&state, initiation);
        mix_shared(&state, key->key, initiation, mix_key);
        decrypt_and_hash(&state, initiation + X25519_BYTES, NOISE_SEALED_KEY, remote);
    }
    if (!state.failed) {
        memcpy(handshake->message, initiation, UDPRING_NOISE_INITIATION);
        memcpy(handshake->remote, remote, X25519_BYTES);
    }
    return step_close(&state, handshake, UDPRING_HANDSHAKE_OPENED);
}

int32_t udpring_handshake_prove(struct udpring_handshake *handshake, const uint8_t *static_static)
{
    struct symmetric state = {0};
    uint8_t timestamp[UDPRING_NOISE_TIMESTAMP + NOISE_TAG_BYTES];
    if (step_open(&state, handshake, UDPRING_HANDSHAKE_OPENED) == 0) {
        mix_key(&state, static_static);
        decrypt_and_hash(&state, handshake->message + X25519_BYTES + NOISE_SEALED_KEY, sizeof(timestamp), timestamp);
    }
    if (!state.failed)
        memcpy(handshake->timestamp, timestamp, sizeof(handshake->timestamp));
    return step_close(&state, handshake, UDPRING_HANDSHAKE_PROVED);
}

int noise_respond(struct udpring_handshake *handshake, const uint8_t *ephemeral, const uint8_t *psk)
{
    struct symmetric state = {0};
    uint8_t message[UDPRING_NOISE_RESPONSE], keys[2 * NOISE_HASH_BYTES] = {0};
    struct x25519_key *private_key = NULL;
    if (step_open(&state, handshake, UDPRING_HANDSHAKE_PROVED) == 0 && !(private_key = x25519_private(ephemeral, message)))
        fail(&state, -ENOMEM);
    if (!state.failed) {
        mix_ephemeral(&state, message);
        mix_shared(&state, private_key, handshake->message, mix_chain);   /* begins with the initiator's ephemeral key */
        mix_shared(&state, private_key, handshake->remote, mix_chain);
        mix_key_and_hash(&state, psk);
        encrypt_and_hash(&state, NULL, 0, message + X25519_BYTES);
        split(&state, keys);
    }
    x25519_free(private_key);
    if (!state.failed) {
        memcpy(handshake->message, message, sizeof(message));
        memcpy(handshake->keys, keys + NOISE_HASH_BYTES, NOISE_HASH_BYTES);   /* the responder sends with the initiator's receiving key */
        memcpy(handshake->keys + NOISE_HASH_BYTES, keys, NOISE_HASH_BYTES);
    }
    OPENSSL_cleanse(keys, sizeof(keys));
    return step_close(&state, handshake, UDPRING_HANDSHAKE_RESPONDED);
}

/* ---- its memory ---- */

struct udpring_handshake *udpring_handshake_new(int32_t cipher)
{
    struct udpring_handshake *handshake = secret_new(sizeof(*handshake));
    if (handshake)
        handshake->cipher = cipher;
    return handshake;
}

void udpring_handshake_free(struct udpring_handshake *handshake)
{
    if (!handshake)
        return;
    x25519_free(handshake->ephemeral);   /* zeroises it */
    secret_free(handshake, sizeof(*handshake));
}

struct udpring_computation *udpring_computation_new(void)
{
    return secret_new(sizeof(struct udpring_computation));
}

void udpring_computation_free(struct udpring_computation *computation)
{
    secret_free(computation, sizeof(*computation));
}
