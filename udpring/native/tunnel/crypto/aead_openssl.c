/* ChaCha20-Poly1305 and AES-256-GCM by OpenSSL 3 (EVP): the implementations every host has.
 *
 * The cipher is fetched once and the key schedule set once a key. A packet sets the nonce alone. Each of these rules
 * costs a factor of 1.5 to 4 when it is broken (openssl#20625, openssl#17064). */
#include "../../secret.h"

#include <limits.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdlib.h>

#include "aead.h"

/* By enum udpring_cipher. Fetched by load() and kept for the life of the process. */
static EVP_CIPHER *fetched[UDPRING_CIPHER_COUNT];

struct openssl_key {
    struct aead_key base;
    EVP_CIPHER_CTX *context;
};

static EVP_CIPHER_CTX *context_of(struct aead_key *key)
{
    return ((struct openssl_key *)key)->context;
}

static int load_chacha(struct udpring_reason *why)
{
    EVP_CIPHER *cipher = fetched[UDPRING_CIPHER_CHACHA20_POLY1305] = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
    if (cipher)
        return 0;
    ERR_clear_error();
    return ur_fail(why, -ENOTSUP, "OpenSSL offers no ChaCha20-Poly1305: is its default provider disabled (FIPS)?");
}

static int load_gcm(struct udpring_reason *why)
{
    EVP_CIPHER *cipher = fetched[UDPRING_CIPHER_AES_256_GCM] = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    if (cipher)
        return 0;
    ERR_clear_error();
    return ur_fail(why, -ENOTSUP, "OpenSSL offers no AES-256-GCM. Is a provider configured?");
}

static void key_free(struct aead_key *key)
{
    if (!key)
        return;
    EVP_CIPHER_CTX_free(context_of(key));    /* clears the key schedule */
    free(key);
}

static int key_new(struct aead_key **key, const struct aead_impl *impl, const uint8_t bytes[AEAD_KEY_BYTES], bool seal)
{
    struct openssl_key *made = calloc(1, sizeof(*made));
    if (!made)
        return -ENOMEM;
    made->base.impl = impl;
    made->context = EVP_CIPHER_CTX_new();
    if (!made->context) {
        free(made);
        return -ENOMEM;
    }
    if (!EVP_CipherInit_ex2(made->context, fetched[impl->cipher], bytes, NULL, seal, NULL)) {
        key_free(&made->base);
        ERR_clear_error();
        return -EIO;
    }
    secret_see_heap();
    *key = &made->base;
    return 0;
}

static int key_new_chacha(struct aead_key **key, const uint8_t bytes[AEAD_KEY_BYTES], bool seal)
{
    return key_new(key, &aead_openssl, bytes, seal);
}

static int key_new_gcm(struct aead_key **key, const uint8_t bytes[AEAD_KEY_BYTES], bool seal)
{
    return key_new(key, &aead_openssl_gcm, bytes, seal);
}

/* The nonce is set. Seals `length` bytes and writes the tag behind them. */
static int seal_one(EVP_CIPHER_CTX *context, const uint8_t *in, uint8_t *out, uint32_t length)
{
    int written = 0, last = 0;
    if (length && !EVP_EncryptUpdate(context, out, &written, in, (int)length))
        return -EIO;
    if (!EVP_EncryptFinal_ex(context, out + written, &last) || written + last != (int)length)
        return -EIO;
    return EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_BYTES, out + length) == 1 ? 0 : -EIO;
}

/* The nonce is set. `length` counts the tag and is at least that. */
static int open_one(EVP_CIPHER_CTX *context, const uint8_t *in, uint8_t *out, uint32_t length)
{
    int written = 0, last = 0;
    uint32_t text = length - AEAD_TAG_BYTES;
    if (EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_BYTES, (void *)(uintptr_t)(in + text)) != 1)
        return -EIO;
    if (text && !EVP_DecryptUpdate(context, out, &written, in, (int)text))
        return -EIO;
    return EVP_DecryptFinal_ex(context, out + written, &last) == 1 ? 0 : -EBADMSG;
}

static bool fits(uint32_t length)
{
    return length <= (uint32_t)INT_MAX - AEAD_TAG_BYTES;    /* EVP counts in int */
}

static void seal(struct aead_key *key, struct aead_op *ops, unsigned count)
{
    EVP_CIPHER_CTX *context = context_of(key);
    uint8_t nonce[AEAD_NONCE_BYTES];
    for (unsigned i = 0; i < count; i++) {
        aead_nonce(nonce, key->impl->cipher, ops[i].counter);
        if (ur_unlikely(!fits(ops[i].length) || !EVP_EncryptInit_ex2(context, NULL, NULL, nonce, NULL)))
            ops[i].result = -EIO;
        else
            ops[i].result = seal_one(context, ops[i].in, ops[i].out, ops[i].length);
    }
}

static void open_packets(struct aead_key *key, struct aead_op *ops, unsigned count)
{
    EVP_CIPHER_CTX *context = context_of(key);
    uint8_t nonce[AEAD_NONCE_BYTES];
    for (unsigned i = 0; i < count; i++) {
        aead_nonce(nonce, key->impl->cipher, ops[i].counter);
        if (ur_unlikely(ops[i].length < AEAD_TAG_BYTES || !fits(ops[i].length)))
            ops[i].result = -EBADMSG;
        else if (ur_unlikely(!EVP_DecryptInit_ex2(context, NULL, NULL, nonce, NULL)))
            ops[i].result = -EIO;
        else
            ops[i].result = open_one(context, ops[i].in, ops[i].out, ops[i].length);
    }
}

static int one_shot(enum udpring_cipher cipher, bool seal, const uint8_t key[AEAD_KEY_BYTES], const uint8_t nonce[AEAD_NONCE_BYTES],
                    const uint8_t *aad, uint32_t aad_length, uint8_t *data, uint32_t length)
{
    if (!fits(length) || !fits(aad_length) || (!seal && length < AEAD_TAG_BYTES))
        return seal ? -EIO : -EBADMSG;
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
    if (!context)
        return -ENOMEM;
    int written, error = -EIO;
    if (EVP_CipherInit_ex2(context, fetched[cipher], key, nonce, seal, NULL) &&
        (!aad_length || EVP_CipherUpdate(context, NULL, &written, aad, (int)aad_length)))
        error = seal ? seal_one(context, data, data, length) : open_one(context, data, data, length);
    EVP_CIPHER_CTX_free(context);
    return error;
}

static int one_shot_chacha(bool seal, const uint8_t key[AEAD_KEY_BYTES], const uint8_t nonce[AEAD_NONCE_BYTES],
                           const uint8_t *aad, uint32_t aad_length, uint8_t *data, uint32_t length)
{
    return one_shot(UDPRING_CIPHER_CHACHA20_POLY1305, seal, key, nonce, aad, aad_length, data, length);
}

static int one_shot_gcm(bool seal, const uint8_t key[AEAD_KEY_BYTES], const uint8_t nonce[AEAD_NONCE_BYTES],
                        const uint8_t *aad, uint32_t aad_length, uint8_t *data, uint32_t length)
{
    return one_shot(UDPRING_CIPHER_AES_256_GCM, seal, key, nonce, aad, aad_length, data, length);
}

const struct aead_impl aead_openssl = {
    .name = "openssl",
    .cipher = UDPRING_CIPHER_CHACHA20_POLY1305,
    .load = load_chacha,
    .key_new = key_new_chacha,
    .key_free = key_free,
    .seal = seal,
    .open = open_packets,
    .one_shot = one_shot_chacha,
};

const struct aead_impl aead_openssl_gcm = {
    .name = "openssl",
    .cipher = UDPRING_CIPHER_AES_256_GCM,
    .load = load_gcm,
    .key_new = key_new_gcm,
    .key_free = key_free,
    .seal = seal,
    .open = open_packets,
    .one_shot = one_shot_gcm,
};
