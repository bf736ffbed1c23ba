/* Measures the cost of sealing and opening the way the tunnel does it: from one buffer to another, a few packets a call. */
#include <stdlib.h>

#include "abi.h"
#include "tunnel/crypto/aead.h"

#define LENGTH_MAX 65535u
#define PACKETS 64u    /* worked on in turn: a batch of the tunnel, more than the first cache holds */

/* Owner and thread: udpring_aead_bench(), which frees it. */
struct bench {
    struct aead_key *key;
    struct aead_op ops[PACKETS];
    uint8_t *plain, *sealed;
    size_t stride;
};

static void bench_clear(struct bench *bench)
{
    if (bench->key)
        bench->key->impl->key_free(bench->key);
    free(bench->plain);
    free(bench->sealed);
}

static void run(const struct bench *bench, struct aead_op *ops, unsigned count, bool seal)
{
    (seal ? bench->key->impl->seal : bench->key->impl->open)(bench->key, ops, count);
}

/* Points the packets from plain to sealed, or back. */
static void aim(struct bench *bench, uint32_t length, bool seal)
{
    for (unsigned i = 0; i < PACKETS; i++) {
        uint8_t *plain = bench->plain + i * bench->stride, *sealed = bench->sealed + i * bench->stride;
        bench->ops[i] = (struct aead_op){ .in = seal ? plain : sealed, .out = seal ? sealed : plain,
                                          .length = seal ? length : length + AEAD_TAG_BYTES, .counter = i, .result = -EIO };
    }
}

/* A key for one direction, buffers, and packets that will open. */
static int prepare(struct bench *bench, const struct aead_impl *impl, bool seal, uint32_t length)
{
    static const uint8_t key[AEAD_KEY_BYTES] = { 0x42 };
    bench->stride = ((size_t)length + AEAD_TAG_BYTES + 63) & ~(size_t)63;
    bench->plain = calloc(PACKETS, bench->stride);
    bench->sealed = calloc(PACKETS, bench->stride);
    if (!bench->plain || !bench->sealed)
        return -ENOMEM;
    int error = impl->key_new(&bench->key, key, true);
    if (error)
        return error;
    aim(bench, length, true);
    run(bench, bench->ops, PACKETS, true);
    if (seal)
        return 0;
    impl->key_free(bench->key);
    bench->key = NULL;
    aim(bench, length, false);
    return impl->key_new(&bench->key, key, false);
}

int64_t udpring_aead_bench(int32_t which, int32_t seal, uint32_t length, uint32_t burst, uint32_t rounds)
{
    struct bench bench = { 0 };
    const struct aead_impl *impl;
    if (aead_numbered(which, &impl, NULL))
        return -ENOTSUP;
    if (length > LENGTH_MAX || !burst || burst > PACKETS || !rounds)
        return -EINVAL;
    int64_t result = prepare(&bench, impl, seal, length);
    if (!result) {
        uint64_t begin = ur_clock_ns(CLOCK_THREAD_CPUTIME_ID);
        for (uint32_t done = 0, next = 0, some; done < rounds; done += some, next = (next + some) % PACKETS) {
            some = PACKETS - next < burst ? PACKETS - next : burst;
            some = rounds - done < some ? rounds - done : some;
            run(&bench, &bench.ops[next], some, seal);
        }
        result = (int64_t)(ur_clock_ns(CLOCK_THREAD_CPUTIME_ID) - begin);
        for (unsigned i = 0; i < PACKETS && i < rounds; i++)
            if (bench.ops[i].result)
                result = bench.ops[i].result;
    }
    bench_clear(&bench);
    return result;
}
