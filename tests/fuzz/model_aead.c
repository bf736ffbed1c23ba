#include "model_aead.h"

enum { NONCES = 1 << 15 };

/* The nonces that the core has sealed with, in a table with open addressing. Owner: this file. A new `round` empties it. */
struct nonce {
    uint64_t secret, counter, hash;
    uint32_t round;
    bool left;
};

struct model_aead model_aead;
static struct nonce nonces[NONCES];
static uint32_t round_now, nonce_count;

static uint64_t mix(uint64_t value)
{
    value ^= value >> 31;
    value *= 0x7fb5d329728ea185u;
    value ^= value >> 27;
    value *= 0x81dadef4bc2dd44du;
    return value ^ value >> 33;
}

static uint64_t hash_bytes(uint64_t hash, const uint8_t *bytes, uint32_t length)
{
    for (; length >= 8; bytes += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, bytes, sizeof(word));
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    uint64_t rest = length;
    memcpy(&rest, bytes, length);
    return mix(hash ^ rest * 0x9e3779b97f4a7c15u ^ length);
}

uint64_t model_secret(const uint8_t key[AEAD_KEY_BYTES])
{
    uint64_t secret;
    memcpy(&secret, key, sizeof(secret));
    return secret;
}

static void cross(uint64_t stream, const uint8_t *in, uint32_t length, uint8_t *out)
{
    for (uint32_t i = 0; i < length; i++)
        out[i] = in[i] ^ (uint8_t)(stream >> i % 8 * 8);
}

static void tag_of(uint64_t secret, uint64_t counter, const uint8_t *plain, uint32_t length, uint8_t tag[AEAD_TAG_BYTES])
{
    uint64_t words[2];
    words[0] = hash_bytes(mix(secret) ^ counter, plain, length);
    words[1] = mix(words[0] + secret);
    memcpy(tag, words, AEAD_TAG_BYTES);
}

void model_seal(uint64_t secret, uint64_t counter, const uint8_t *in, uint32_t length, uint8_t *out)
{
    uint8_t tag[AEAD_TAG_BYTES];
    tag_of(secret, counter, in, length, tag);
    cross(mix(secret ^ counter * 3), in, length, out);
    memcpy(out + length, tag, sizeof(tag));
}

bool model_open(uint64_t secret, uint64_t counter, const uint8_t *in, uint32_t sealed_length, uint8_t *out)
{
    if (sealed_length < AEAD_TAG_BYTES)
        return false;
    uint8_t sealed[AEAD_TAG_BYTES], tag[AEAD_TAG_BYTES];
    uint32_t length = sealed_length - AEAD_TAG_BYTES;
    memcpy(sealed, in + length, sizeof(sealed));
    cross(mix(secret ^ counter * 3), in, length, out);
    tag_of(secret, counter, out, length, tag);
    return !memcmp(sealed, tag, sizeof(tag));
}

void model_aead_reset(void)
{
    model_aead = (struct model_aead){0};
    round_now++;
    nonce_count = 0;
}

static struct nonce *find(uint64_t secret, uint64_t counter)
{
    uint64_t at = mix(secret * 31 + counter) % NONCES;
    while (nonces[at].round == round_now && (nonces[at].secret != secret || nonces[at].counter != counter))
        at = (at + 1) % NONCES;
    return &nonces[at];
}

void model_nonce_leaves(uint64_t secret, uint64_t counter, const uint8_t *sealed, uint32_t length)
{
    struct nonce *nonce = find(secret, counter);
    CLAIM(nonce->round == round_now, "counter %lu leaves and was never sealed", counter);
    CLAIM(nonce->hash == hash_bytes(0, sealed, length), "counter %lu leaves changed", counter);
    CLAIM(!nonce->left, "counter %lu leaves twice", counter);
    nonce->left = true;
}

/* ---- the implementation for the core ---- */

struct model_key {
    struct aead_key key;
    uint64_t secret;
    bool seals;
};

static int key_new(struct aead_key **key, const uint8_t bytes[AEAD_KEY_BYTES], bool seal);

static void key_free(struct aead_key *key)
{
    if (!key)
        return;
    model_aead.keys--;
    memset(key, 0xdd, sizeof(struct model_key));
    free(key);
}

static void seal(struct aead_key *key, struct aead_op *ops, unsigned count)
{
    struct model_key *model = (struct model_key *)key;
    CLAIM(model->seals, "a receiving key seals");
    for (unsigned i = 0; i < count; i++) {
        struct nonce *nonce = find(model->secret, ops[i].counter);
        CLAIM(nonce->round != round_now, "counter %lu is used again under one key", ops[i].counter);
        CLAIM(++nonce_count < NONCES / 2, "the harness keeps no more nonces");
        bool fails = ++model_aead.sealed == model_aead.fail_seal_at;
        ops[i].result = fails ? -EIO : 0;
        if (fails)
            memset(ops[i].out, 0xdd, ops[i].length + AEAD_TAG_BYTES);
        else
            model_seal(model->secret, ops[i].counter, ops[i].in, ops[i].length, ops[i].out);
        uint64_t hash = fails ? 0 : hash_bytes(0, ops[i].out, ops[i].length + AEAD_TAG_BYTES);
        *nonce = (struct nonce){model->secret, ops[i].counter, hash, round_now, fails};
    }
}

/* The core checks the window first, so accepted messages are not opened again. */
static void open_once(uint64_t secret, uint64_t counter)
{
    struct nonce *nonce = find(secret, counter);
    CLAIM(nonce->round != round_now, "counter %lu is taken again: a replay", counter);
    CLAIM(++nonce_count < NONCES / 2, "the harness keeps no more nonces");
    *nonce = (struct nonce){secret, counter, 0, round_now, true};
}

static void open_all(struct aead_key *key, struct aead_op *ops, unsigned count)
{
    struct model_key *model = (struct model_key *)key;
    CLAIM(!model->seals, "a sending key opens");
    for (unsigned i = 0; i < count; i++) {
        bool good = model_open(model->secret, ops[i].counter, ops[i].in, ops[i].length, ops[i].out);
        ops[i].result = good ? 0 : -EBADMSG;
        if (good)
            open_once(model->secret, ops[i].counter);
        model_aead.opened += good;
        model_aead.empty_opened += good && ops[i].length == AEAD_TAG_BYTES;
    }
}

static const struct aead_impl implementations[UDPRING_CIPHER_COUNT] = {
    {.name = "model", .cipher = UDPRING_CIPHER_CHACHA20_POLY1305, .key_new = key_new, .key_free = key_free, .seal = seal, .open = open_all},
    {.name = "model", .cipher = UDPRING_CIPHER_AES_256_GCM, .key_new = key_new, .key_free = key_free, .seal = seal, .open = open_all},
};

static int key_new(struct aead_key **key, const uint8_t bytes[AEAD_KEY_BYTES], bool seal_it)
{
    struct model_key *model = malloc(sizeof(*model));
    if (!model)
        return -ENOMEM;
    *model = (struct model_key){{&implementations[0]}, model_secret(bytes), seal_it};
    model_aead.keys++;
    *key = &model->key;
    return 0;
}

const struct aead_impl *__wrap_aead_chosen(enum udpring_cipher cipher);

const struct aead_impl *__wrap_aead_chosen(enum udpring_cipher cipher)
{
    return &implementations[cipher];
}
