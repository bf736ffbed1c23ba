/* Each AEAD by itself: single packets, published vectors, bursts. */
#include "tunnel/crypto/aead.h"

#include <stdlib.h>

#include "abi.h"

/* One packet by the functions the tunnel uses. Works in `data`, laid out as in aead_op. */
static int run_one(const struct aead_impl *impl, bool seal, const uint8_t *bytes, uint64_t counter, uint8_t *data,
                   uint32_t length)
{
    struct aead_key *key;
    int error = impl->key_new(&key, bytes, seal);
    if (error)
        return error;
    struct aead_op op = { .in = data, .out = data, .length = length, .counter = counter, .result = -EIO };
    (seal ? key->impl->seal : key->impl->open)(key, &op, 1);
    key->impl->key_free(key);
    return op.result;
}

/* A copy to work on in place, with room for the tag. */
static uint8_t *working_copy(const uint8_t *in, uint32_t length)
{
    uint8_t *copy = malloc((size_t)length + AEAD_TAG_BYTES);
    if (copy && length)
        memcpy(copy, in, length);
    return copy;
}

/* Runs one packet from `in` to `out`; nonce NULL takes the path of the tunnel, with the counter. */
static int32_t run_copied(int32_t which, bool seal, const uint8_t *key, const uint8_t *nonce, uint64_t counter,
                          const uint8_t *aad, uint32_t aad_length, const uint8_t *in, uint32_t length, uint8_t *out)
{
    const struct aead_impl *impl;
    int error = aead_numbered(which, &impl, NULL);
    if (error)
        return error;
    if (length > (uint32_t)INT32_MAX - AEAD_TAG_BYTES || aad_length > (uint32_t)INT32_MAX)
        return -EMSGSIZE;
    uint8_t *copy = working_copy(in, length);
    if (!copy)
        return -ENOMEM;
    error = nonce ? impl->one_shot(seal, key, nonce, aad, aad_length, copy, length)
                  : run_one(impl, seal, key, counter, copy, length);
    uint32_t produced = seal ? length + AEAD_TAG_BYTES : length - AEAD_TAG_BYTES;
    if (!error && produced)
        memcpy(out, copy, produced);
    explicit_bzero(copy, (size_t)length + AEAD_TAG_BYTES);
    free(copy);
    return error;
}

int32_t udpring_aead_seal(int32_t which, const uint8_t *key, uint64_t counter, const uint8_t *in, uint32_t length, uint8_t *out)
{
    return run_copied(which, true, key, NULL, counter, NULL, 0, in, length, out);
}

int32_t udpring_aead_open(int32_t which, const uint8_t *key, uint64_t counter, const uint8_t *in, uint32_t length, uint8_t *out)
{
    return run_copied(which, false, key, NULL, counter, NULL, 0, in, length, out);
}

int32_t udpring_aead_seal_aad(int32_t which, const uint8_t *key, const uint8_t *nonce, const uint8_t *aad, uint32_t aad_length,
                              const uint8_t *in, uint32_t length, uint8_t *out)
{
    return run_copied(which, true, key, nonce, 0, aad, aad_length, in, length, out);
}

int32_t udpring_aead_open_aad(int32_t which, const uint8_t *key, const uint8_t *nonce, const uint8_t *aad, uint32_t aad_length,
                              const uint8_t *in, uint32_t length, uint8_t *out)
{
    return run_copied(which, false, key, nonce, 0, aad, aad_length, in, length, out);
}

int32_t udpring_aead_burst(int32_t which, int32_t seal, const uint8_t *key, uint64_t counter, const uint8_t *in, uint8_t *out,
                           uint32_t length, uint32_t stride, uint32_t count, int32_t *results)
{
    const struct aead_impl *impl;
    int error = aead_numbered(which, &impl, NULL);
    if (error)
        return error;
    struct aead_key *made = NULL;
    struct aead_op *ops = calloc(count ? count : 1, sizeof(*ops));
    error = ops ? impl->key_new(&made, key, seal) : -ENOMEM;
    if (!error) {
        for (uint32_t i = 0; i < count; i++)
            ops[i] = (struct aead_op){ .in = in + (size_t)i * stride, .out = out + (size_t)i * stride, .length = length,
                                       .counter = counter + i, .result = -EIO };
        (seal ? made->impl->seal : made->impl->open)(made, ops, count);
        for (uint32_t i = 0; i < count; i++)
            results[i] = ops[i].result;
    }
    impl->key_free(made);
    free(ops);
    return error;
}
