#include "cookie_reply.h"

#include <stdlib.h>

#include "abi.h"
#include "messages.h"

enum { AT_NONCE = 8, AT_SEALED = AT_NONCE + COOKIE_NONCE_BYTES, AT_TAG = AT_SEALED + MAC_COOKIE_BYTES };

_Static_assert(AT_TAG + 16 == COOKIE_REPLY_BYTES, "type, receiver, nonce, cookie, tag");

int cookie_sealer_open(struct cookie_sealer *sealer, struct udpring_reason *why)
{
    memset(sealer, 0, sizeof(*sealer));
    sealer->cipher = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
    if (!sealer->cipher)
        return ur_fail(why, -ENOTSUP, "OpenSSL offers no ChaCha20-Poly1305: is its default provider disabled (FIPS)?");
    sealer->context = EVP_CIPHER_CTX_new();
    if (!sealer->context || !EVP_EncryptInit_ex2(sealer->context, sealer->cipher, NULL, NULL, NULL)) {
        cookie_sealer_close(sealer);
        return ur_fail(why, -ENOMEM, "OpenSSL could not set up ChaCha20-Poly1305 for cookie replies");
    }
    return 0;
}

void cookie_sealer_close(struct cookie_sealer *sealer)
{
    EVP_CIPHER_CTX_free(sealer->context);
    EVP_CIPHER_free(sealer->cipher);
    memset(sealer, 0, sizeof(*sealer));
}

static uint32_t word(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void turn(uint32_t *left, uint32_t right, uint32_t *by, unsigned bits)
{
    *left += right;
    *by ^= *left;
    *by = *by << bits | *by >> (32 - bits);
}

static void quarter(uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d)
{
    turn(a, *b, d, 16);
    turn(c, *d, b, 12);
    turn(a, *b, d, 8);
    turn(c, *d, b, 7);
}

/* HChaCha20 (draft-irtf-cfrg-xchacha-03, 2.2), which OpenSSL does not have: the subkey of a key and 16 bytes of nonce. */
static void hchacha20(const uint8_t key[32], const uint8_t nonce[16], uint8_t subkey[32])
{
    uint32_t x[16] = { 0x61707865, 0x3320646e, 0x79622d32, 0x6b206574 };
    for (int i = 0; i < 8; i++)
        x[4 + i] = word(key + 4 * i);
    for (int i = 0; i < 4; i++)
        x[12 + i] = word(nonce + 4 * i);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 4; i++)
            quarter(&x[i], &x[4 + i], &x[8 + i], &x[12 + i]);
        for (int i = 0; i < 4; i++)
            quarter(&x[i], &x[4 + (i + 1) % 4], &x[8 + (i + 2) % 4], &x[12 + (i + 3) % 4]);
    }
    for (int i = 0; i < 8; i++) {
        uint32_t value = i < 4 ? x[i] : x[8 + i];
        for (int byte = 0; byte < 4; byte++)
            subkey[4 * i + byte] = (uint8_t)(value >> 8 * byte);
    }
    explicit_bzero(x, sizeof(x));
}

/* XChaCha20-Poly1305 is ChaCha20-Poly1305 with these. */
static void derive(const uint8_t key[32], const uint8_t nonce[COOKIE_NONCE_BYTES], uint8_t subkey[32], uint8_t short_nonce[12])
{
    hchacha20(key, nonce, subkey);
    memset(short_nonce, 0, 4);
    memcpy(short_nonce + 4, nonce + 16, 8);
}

int cookie_reply_make(struct cookie_sealer *sealer, const uint8_t key[32], const uint8_t nonce[COOKIE_NONCE_BYTES],
                      const uint8_t sender[4], const uint8_t mac1[MAC_BYTES], const uint8_t cookie[MAC_COOKIE_BYTES],
                      uint8_t reply[COOKIE_REPLY_BYTES])
{
    uint8_t subkey[32], short_nonce[12];
    int written = 0;
    derive(key, nonce, subkey, short_nonce);
    memset(reply, 0, COOKIE_REPLY_BYTES);
    reply[0] = WG_TYPE_COOKIE_REPLY;
    memcpy(reply + 4, sender, 4);
    memcpy(reply + AT_NONCE, nonce, COOKIE_NONCE_BYTES);
    EVP_CIPHER_CTX *context = sealer->context;
    bool sealed = EVP_EncryptInit_ex2(context, NULL, subkey, short_nonce, NULL) &&
                  EVP_EncryptUpdate(context, NULL, &written, mac1, MAC_BYTES) &&
                  EVP_EncryptUpdate(context, reply + AT_SEALED, &written, cookie, MAC_COOKIE_BYTES) &&
                  EVP_EncryptFinal_ex(context, reply + AT_TAG, &written) &&
                  EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, 16, reply + AT_TAG);
    explicit_bzero(subkey, sizeof(subkey));
    return sealed ? 0 : -EIO;
}

int cookie_reply_open(struct cookie_sealer *sealer, const uint8_t key[32], const uint8_t reply[COOKIE_REPLY_BYTES],
                      const uint8_t mac1[MAC_BYTES], uint8_t cookie[MAC_COOKIE_BYTES])
{
    uint8_t subkey[32], short_nonce[12], tag[16];
    int written = 0;
    derive(key, reply + AT_NONCE, subkey, short_nonce);
    memcpy(tag, reply + AT_TAG, sizeof(tag));
    EVP_CIPHER_CTX *context = sealer->context;
    bool opened = EVP_DecryptInit_ex2(context, NULL, subkey, short_nonce, NULL) &&
                  EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, sizeof(tag), tag) &&
                  EVP_DecryptUpdate(context, NULL, &written, mac1, MAC_BYTES) &&
                  EVP_DecryptUpdate(context, cookie, &written, reply + AT_SEALED, MAC_COOKIE_BYTES) &&
                  EVP_DecryptFinal_ex(context, cookie + MAC_COOKIE_BYTES, &written) > 0;
    explicit_bzero(subkey, sizeof(subkey));
    if (!opened)
        explicit_bzero(cookie, MAC_COOKIE_BYTES);
    return opened ? 0 : -EBADMSG;
}

/* Test access: one reply by a sealer of its own. */
int32_t udpring_cookie_reply(const uint8_t *key, const uint8_t *nonce, const uint8_t *sender, const uint8_t *mac1,
                             const uint8_t *cookie, uint8_t *reply)
{
    struct cookie_sealer sealer;
    int result = cookie_sealer_open(&sealer, NULL);
    if (result == 0)
        result = cookie_reply_make(&sealer, key, nonce, sender, mac1, cookie, reply);
    cookie_sealer_close(&sealer);
    return result;
}

int32_t udpring_cookie_open(const uint8_t *key, const uint8_t *reply, const uint8_t *mac1, uint8_t *cookie)
{
    struct cookie_sealer sealer;
    int result = cookie_sealer_open(&sealer, NULL);
    if (result == 0)
        result = cookie_reply_open(&sealer, key, reply, mac1, cookie);
    cookie_sealer_close(&sealer);
    return result;
}
