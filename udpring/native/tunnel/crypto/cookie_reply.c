#include "cookie_reply.h"

#include "../messages.h"

#include "abi.h"

enum { CHACHA_BLOCK_BYTES = 64 };
enum { AT_NONCE = 8, AT_SEALED = AT_NONCE + COOKIE_NONCE_BYTES, AT_TAG = AT_SEALED + MAC_COOKIE_BYTES };

_Static_assert(AT_TAG + 16 == COOKIE_REPLY_BYTES, "type, receiver, nonce, cookie, tag");

int cookie_sealer_open(struct cookie_sealer *sealer, struct udpring_reason *why)
{
    memset(sealer, 0, sizeof(*sealer));
    sealer->cipher = EVP_CIPHER_fetch(NULL, "ChaCha20-Poly1305", NULL);
    if (!sealer->cipher)
        return ur_fail(why, -ENOTSUP, "OpenSSL offers no ChaCha20-Poly1305: is its default provider disabled (FIPS)?");
    sealer->block_cipher = EVP_CIPHER_fetch(NULL, "ChaCha20", NULL);
    sealer->context = EVP_CIPHER_CTX_new();
    sealer->block = EVP_CIPHER_CTX_new();
    if (!sealer->block_cipher || !sealer->context || !sealer->block ||
        !EVP_EncryptInit_ex2(sealer->context, sealer->cipher, NULL, NULL, NULL) ||
        !EVP_EncryptInit_ex2(sealer->block, sealer->block_cipher, NULL, NULL, NULL)) {
        cookie_sealer_close(sealer);
        return ur_fail(why, -ENOMEM, "OpenSSL could not set up ChaCha20-Poly1305 for cookie replies");
    }
    return 0;
}

void cookie_sealer_close(struct cookie_sealer *sealer)
{
    EVP_CIPHER_CTX_free(sealer->context);
    EVP_CIPHER_CTX_free(sealer->block);
    EVP_CIPHER_free(sealer->cipher);
    EVP_CIPHER_free(sealer->block_cipher);
    memset(sealer, 0, sizeof(*sealer));
}

static uint32_t word(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static void subtract(const uint8_t *block, const uint8_t *state, uint8_t *out)
{
    uint32_t difference = word(block) - word(state);
    for (int byte = 0; byte < 4; byte++)
        out[byte] = (uint8_t)(difference >> 8 * byte);
}

/* HChaCha20 (draft-irtf-cfrg-xchacha-03, 2.2): the subkey of a key and 16 bytes of nonce. OpenSSL does not have it by name. It is
 * the first and the last row of a block of ChaCha20 without the addition of the initial state, which is subtracted here. */
static bool hchacha20(struct cookie_sealer *sealer, const uint8_t key[32], const uint8_t nonce[16], uint8_t subkey[32])
{
    static const uint8_t constants[17] = "expand 32-byte k", zero[CHACHA_BLOCK_BYTES];
    uint8_t block[CHACHA_BLOCK_BYTES];
    int written = 0;
    bool done = EVP_EncryptInit_ex2(sealer->block, NULL, key, nonce, NULL) &&
                EVP_EncryptUpdate(sealer->block, block, &written, zero, sizeof(block)) && written == sizeof(block);
    for (int at = 0; done && at < 16; at += 4) {
        subtract(block + at, constants + at, subkey + at);
        subtract(block + 48 + at, nonce + at, subkey + 16 + at);
    }
    explicit_bzero(block, sizeof(block));
    return done;
}

/* XChaCha20-Poly1305 is ChaCha20-Poly1305 with these. */
static bool derive(struct cookie_sealer *sealer, const uint8_t key[32], const uint8_t nonce[COOKIE_NONCE_BYTES], uint8_t subkey[32],
                   uint8_t short_nonce[12])
{
    memset(short_nonce, 0, 4);
    memcpy(short_nonce + 4, nonce + 16, 8);
    return hchacha20(sealer, key, nonce, subkey);
}

int cookie_reply_make(struct cookie_sealer *sealer, const uint8_t key[32], const uint8_t nonce[COOKIE_NONCE_BYTES],
                      const uint8_t sender[4], const uint8_t mac1[MAC_BYTES], const uint8_t cookie[MAC_COOKIE_BYTES],
                      uint8_t reply[COOKIE_REPLY_BYTES])
{
    uint8_t subkey[32], short_nonce[12];
    int written = 0;
    memset(reply, 0, COOKIE_REPLY_BYTES);
    reply[0] = WG_TYPE_COOKIE_REPLY;
    memcpy(reply + 4, sender, 4);
    memcpy(reply + AT_NONCE, nonce, COOKIE_NONCE_BYTES);
    EVP_CIPHER_CTX *context = sealer->context;
    bool sealed = derive(sealer, key, nonce, subkey, short_nonce) &&
                  EVP_EncryptInit_ex2(context, NULL, subkey, short_nonce, NULL) &&
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
    memcpy(tag, reply + AT_TAG, sizeof(tag));
    EVP_CIPHER_CTX *context = sealer->context;
    bool opened = derive(sealer, key, reply + AT_NONCE, subkey, short_nonce) &&
                  EVP_DecryptInit_ex2(context, NULL, subkey, short_nonce, NULL) &&
                  EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, sizeof(tag), tag) &&
                  EVP_DecryptUpdate(context, NULL, &written, mac1, MAC_BYTES) &&
                  EVP_DecryptUpdate(context, cookie, &written, reply + AT_SEALED, MAC_COOKIE_BYTES) &&
                  EVP_DecryptFinal_ex(context, cookie + MAC_COOKIE_BYTES, &written) > 0;
    explicit_bzero(subkey, sizeof(subkey));
    if (!opened)
        explicit_bzero(cookie, MAC_COOKIE_BYTES);
    return opened ? 0 : -EBADMSG;
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
