/* AES-256-GCM by Intel's Multi-Buffer Crypto for IPsec: a quarter of OpenSSL 3.0's time where the CPU has VAES.
 *
 * By the library's direct interface: one packet takes all of the CPU's width, so there is nothing to gain from a queue.
 * Its functions keep nothing in the manager, so one manager, made at load and kept, serves all threads. A key is expanded
 * once (rounds and the powers for GHASH, 1 KB). Any thread may use it, one at a time. */
#ifdef UDPRING_IPSECMB
#include <openssl/crypto.h>
#include <stdlib.h>

#include "../../secret.h"

#include "aead.h"
#include "aead_ipsecmb.h"

/* Without these the library uses tables in memory, which is slow and leaks the key through the cache. */
#define FEATURES_WANTED (IMB_FEATURE_AESNI | IMB_FEATURE_PCLMULQDQ)

_Static_assert(_Alignof(struct gcm_key_data) <= SECRET_ALIGNMENT, "for aligned loads of the key");

/* Owner: the keypair. Thread: one at a time. Freed, and zeroised, by gcm_key_free(). */
struct gcm_key {
    struct aead_key base;
    struct gcm_context_data context;    /* of the packet in work. Here, so that it ends with the key */
    struct gcm_key_data expanded;       /* aligned to 64 bytes by its type */
};

static const IMB_MGR *manager;    /* made by load() and kept for the life of the process. Read only */

static int load(struct udpring_reason *why)
{
    IMB_MGR *made;
    int error = ipsecmb_library(why);
    if (!error)
        error = ipsecmb_manager_new(&made, why);
    if (error)
        return error;
    if ((made->features & FEATURES_WANTED) != FEATURES_WANTED) {
        ipsecmb_manager_free(made);
        return ur_fail(why, -ENOTSUP, "this CPU lacks AES-NI or PCLMULQDQ. Without them AES is neither fast nor safe");
    }
    manager = made;
    return 0;
}

static struct gcm_key *gcm_key_new(const uint8_t bytes[AEAD_KEY_BYTES])
{
    struct gcm_key *made = secret_new(sizeof(*made));
    if (!made)
        return NULL;
    made->base.impl = &aead_ipsecmb_gcm;
    IMB_AES256_GCM_PRE(manager, bytes, &made->expanded);
    return made;
}

static void gcm_key_free(struct gcm_key *key)
{
    secret_free(key, sizeof(*key));
}

static void key_free(struct aead_key *key)
{
    if (key)
        gcm_key_free((struct gcm_key *)key);
}

static int key_new(struct aead_key **key, const uint8_t bytes[AEAD_KEY_BYTES], bool seal)
{
    struct gcm_key *made = gcm_key_new(bytes);    /* one expansion serves both directions */
    if (!made)
        return -ENOMEM;
    *key = &made->base;
    return 0;
}

/* Opens `length` bytes, tag included, which are at least the tag. */
static int open_one(struct gcm_key *key, const uint8_t *nonce, const uint8_t *aad, uint32_t aad_length, const uint8_t *in,
                    uint8_t *out, uint32_t length)
{
    uint8_t computed[AEAD_TAG_BYTES];
    uint32_t text = length - AEAD_TAG_BYTES;
    IMB_AES256_GCM_DEC(manager, &key->expanded, &key->context, out, in, text, nonce, aad, aad_length, computed,
                       sizeof(computed));
    return CRYPTO_memcmp(computed, in + text, sizeof(computed)) == 0 ? 0 : -EBADMSG;
}

static void seal(struct aead_key *key, struct aead_op *ops, unsigned count)
{
    struct gcm_key *own = (struct gcm_key *)key;
    uint8_t nonce[AEAD_NONCE_BYTES];
    for (unsigned i = 0; i < count; i++) {
        struct aead_op *op = &ops[i];
        aead_nonce(nonce, UDPRING_CIPHER_AES_256_GCM, op->counter);
        IMB_AES256_GCM_ENC(manager, &own->expanded, &own->context, op->out, op->in, op->length, nonce, NULL, 0,
                           op->out + op->length, AEAD_TAG_BYTES);
        op->result = 0;
    }
}

static void open_packets(struct aead_key *key, struct aead_op *ops, unsigned count)
{
    struct gcm_key *own = (struct gcm_key *)key;
    uint8_t nonce[AEAD_NONCE_BYTES];
    for (unsigned i = 0; i < count; i++) {
        struct aead_op *op = &ops[i];
        aead_nonce(nonce, UDPRING_CIPHER_AES_256_GCM, op->counter);
        if (ur_unlikely(op->length < AEAD_TAG_BYTES))
            op->result = -EBADMSG;
        else
            op->result = open_one(own, nonce, NULL, 0, op->in, op->out, op->length);
    }
}

static int one_shot(bool seal, const uint8_t key[AEAD_KEY_BYTES], const uint8_t nonce[AEAD_NONCE_BYTES],
                    const uint8_t *aad, uint32_t aad_length, uint8_t *data, uint32_t length)
{
    if (!seal && length < AEAD_TAG_BYTES)
        return -EBADMSG;
    struct gcm_key *made = gcm_key_new(key);
    if (!made)
        return -ENOMEM;
    int error = 0;
    if (seal)
        IMB_AES256_GCM_ENC(manager, &made->expanded, &made->context, data, data, length, nonce, aad, aad_length,
                           data + length, AEAD_TAG_BYTES);
    else
        error = open_one(made, nonce, aad, aad_length, data, data, length);
    gcm_key_free(made);
    return error;
}

const struct aead_impl aead_ipsecmb_gcm = {
    .name = "ipsec-mb",
    .cipher = UDPRING_CIPHER_AES_256_GCM,
    .load = load,
    .key_new = key_new,
    .key_free = key_free,
    .seal = seal,
    .open = open_packets,
    .one_shot = one_shot,
};
#else
typedef int udpring_built_without_ipsecmb_gcm;    /* ISO C wants a declaration in each file */
#endif
