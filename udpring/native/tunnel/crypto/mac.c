#include "mac.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>

int mac_engine_open(struct mac_engine *engine, struct udpring_reason *why)
{
    memset(engine, 0, sizeof(*engine));
    engine->mac = EVP_MAC_fetch(NULL, OSSL_MAC_NAME_BLAKE2SMAC, NULL);
    if (!engine->mac)
        return ur_fail(why, -ENOTSUP, "OpenSSL offers no BLAKE2SMAC: is its default provider disabled (FIPS)?");
    engine->context = EVP_MAC_CTX_new(engine->mac);
    size_t size = MAC_BYTES;
    OSSL_PARAM parameters[] = { OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size), OSSL_PARAM_construct_end() };
    if (!engine->context || !EVP_MAC_CTX_set_params(engine->context, parameters)) {
        mac_engine_close(engine);
        return ur_fail(why, -ENOMEM, "OpenSSL could not set up BLAKE2SMAC with 16 bytes of output");
    }
    return 0;
}

void mac_engine_close(struct mac_engine *engine)
{
    EVP_MAC_CTX_free(engine->context);
    EVP_MAC_free(engine->mac);
    memset(engine, 0, sizeof(*engine));
}

/* Keying anew resets the context. The size of the output stays as it was set. */
static int mac(struct mac_engine *engine, const uint8_t *key, size_t key_length, const uint8_t *bytes, size_t length,
               uint8_t out[MAC_BYTES])
{
    size_t written = 0;
    if (EVP_MAC_init(engine->context, key, key_length, NULL) && EVP_MAC_update(engine->context, bytes, length) &&
        EVP_MAC_final(engine->context, out, &written, MAC_BYTES) && written == MAC_BYTES)
        return 0;
    return -EIO;
}

bool mac_check1(struct mac_engine *engine, const uint8_t mac1_key[MAC_KEY_BYTES], const uint8_t *message, uint32_t length)
{
    uint8_t expected[MAC_BYTES];
    if (length < 2 * MAC_BYTES || mac(engine, mac1_key, MAC_KEY_BYTES, message, length - 2 * MAC_BYTES, expected))
        return false;
    return CRYPTO_memcmp(expected, message + length - 2 * MAC_BYTES, MAC_BYTES) == 0;
}

bool mac_check2(struct mac_engine *engine, const uint8_t cookie[MAC_COOKIE_BYTES], const uint8_t *message, uint32_t length)
{
    uint8_t expected[MAC_BYTES];
    if (length < 2 * MAC_BYTES || mac(engine, cookie, MAC_COOKIE_BYTES, message, length - MAC_BYTES, expected))
        return false;
    return CRYPTO_memcmp(expected, message + length - MAC_BYTES, MAC_BYTES) == 0;
}

int mac_cookie(struct mac_engine *engine, const uint8_t secret[MAC_KEY_BYTES], const uint8_t *ip, uint32_t ip_length,
               uint16_t port_host_order, uint8_t cookie[MAC_COOKIE_BYTES])
{
    uint8_t source[16 + 2];
    if (ip_length != 4 && ip_length != 16)
        return -EINVAL;
    memcpy(source, ip, ip_length);
    source[ip_length] = (uint8_t)(port_host_order >> 8);
    source[ip_length + 1] = (uint8_t)port_host_order;
    return mac(engine, secret, MAC_KEY_BYTES, source, ip_length + 2, cookie);
}
