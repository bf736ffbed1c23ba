/* The allowed-IPs trie against a list with linear search: insert, move, remove, remove a peer, look up, list. */
#include <sys/socket.h>

#include "input.h"
#include "../native/abi.h"
#include "tunnel/peers/allowed_ips.h"

enum { MODEL_MAX = 256, ADDRESSES = 8 };

static struct udpring_prefix model[MODEL_MAX];
static uint32_t model_count;

static void mask_host_bits(struct udpring_prefix *prefix)
{
    uint32_t bytes = prefix->family == AF_INET ? 4 : 16;
    for (uint32_t i = 0; i < 16; i++) {
        int bits = i < bytes ? (int)prefix->cidr - 8 * (int)i : 0;
        if (bits < 8)
            prefix->ip[i] &= bits > 0 ? (uint8_t)(0xff << (8 - bits)) : 0;
    }
}

static bool same_prefix(const struct udpring_prefix *one, const struct udpring_prefix *other)
{
    return one->family == other->family && one->cidr == other->cidr && !memcmp(one->ip, other->ip, 16);
}

static bool covers(const struct udpring_prefix *prefix, uint16_t family, const uint8_t *ip)
{
    if (prefix->family != family)
        return false;
    for (uint32_t bit = 0; bit < prefix->cidr; bit++)
        if ((prefix->ip[bit / 8] ^ ip[bit / 8]) >> (7 - bit % 8) & 1)
            return false;
    return true;
}

static uint32_t model_lookup(uint16_t family, const uint8_t *ip)
{
    uint32_t peer = UDPRING_PEER_NONE;
    int longest = -1;
    for (uint32_t i = 0; i < model_count; i++)
        if (covers(&model[i], family, ip) && model[i].cidr > longest) {
            longest = model[i].cidr;
            peer = model[i].peer;
        }
    return peer;
}

static int model_find(const struct udpring_prefix *prefix)
{
    for (uint32_t i = 0; i < model_count; i++)
        if (same_prefix(&model[i], prefix))
            return (int)i;
    return -1;
}

/* The prefix as stored. False: the model is full and the run ends. */
static bool insert(struct trie *trie, struct udpring_prefix prefix)
{
    uint32_t done = 77;
    int result = trie_apply(trie, &prefix, 1, &done);
    if (prefix.peer == UDPRING_PEER_NONE) {
        CLAIM(result < 0 && done == 0, "a prefix of nobody: %d, %u done", result, done);
        return true;
    }
    CLAIM(result == 0 && done == 1, "%d, %u done", result, done);
    mask_host_bits(&prefix);
    int at = model_find(&prefix);
    if (at < 0)
        at = (int)model_count++;
    model[at] = prefix;
    return model_count < MODEL_MAX;
}

static void remove_one(struct trie *trie, struct udpring_prefix prefix)
{
    uint32_t done;
    prefix.remove = 1;
    CLAIM(trie_apply(trie, &prefix, 1, &done) == 0 && done == 1, "%u done", done);
    mask_host_bits(&prefix);
    int at = model_find(&prefix);
    if (at >= 0 && model[at].peer == prefix.peer)
        model[at] = model[--model_count];
}

static void remove_peer(struct trie *trie, uint32_t peer)
{
    trie_remove_peer(trie, peer);
    for (uint32_t i = 0; i < model_count;)
        if (model[i].peer == peer)
            model[i] = model[--model_count];
        else
            i++;
}

static bool ascends(const struct udpring_prefix *one, const struct udpring_prefix *next)
{
    if (one->family != next->family)
        return one->family == AF_INET;
    int order = memcmp(one->ip, next->ip, 16);
    return order < 0 || (order == 0 && one->cidr < next->cidr);
}

static void check_list(const struct trie *trie, uint32_t peer, uint32_t max)
{
    struct udpring_prefix listed[MODEL_MAX];
    uint32_t expected = 0, count = trie_list(trie, peer, listed, max);
    for (uint32_t i = 0; i < model_count; i++)
        expected += model[i].peer == peer;
    CLAIM(count == expected, "%u listed, %u there", count, expected);
    for (uint32_t i = 0; i < count && i < max; i++) {
        int at = model_find(&listed[i]);
        CLAIM(at >= 0 && model[at].peer == peer && listed[i].peer == peer, "entry %u is not the peer's", i);
        CLAIM(!i || ascends(&listed[i - 1], &listed[i]), "entry %u is out of order", i);
    }
}

static void check(const struct trie *trie, const struct udpring_prefix *near, uint32_t flip, uint32_t max)
{
    uint8_t ip[16];
    memcpy(ip, near->ip, sizeof(ip));
    CLAIM(trie_lookup(trie, near->family, ip) == model_lookup(near->family, ip), "look-up");
    ip[flip / 8 % 16] ^= (uint8_t)(1 << flip % 8);
    CLAIM(trie_lookup(trie, near->family, ip) == model_lookup(near->family, ip), "look-up, bit %u flipped", flip % 128);
    CLAIM(trie_lookup(trie, AF_UNIX, ip) == UDPRING_PEER_NONE, "another family");
    CLAIM(trie_count(trie) == model_count, "%u, not %u", trie_count(trie), model_count);
    CLAIM(trie_nodes(trie) <= 2 * model_count, "%u nodes for %u prefixes", trie_nodes(trie), model_count);
    check_list(trie, near->peer, max < MODEL_MAX ? max : MODEL_MAX);
}

static void refuses(struct trie *trie, struct udpring_prefix prefix)
{
    uint32_t done;
    prefix.cidr = prefix.family == AF_INET ? 33 : 129;
    CLAIM(trie_apply(trie, &prefix, 1, &done) == -EINVAL && done == 0, "a mask of %u bits", prefix.cidr);
    prefix.family = AF_UNIX;
    CLAIM(trie_apply(trie, &prefix, 1, &done) == -EINVAL && done == 0, "an unknown family");
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    static const uint32_t peers[] = {0, 1, 2, 3, UDPRING_PEER_NONE - 1, UDPRING_PEER_NONE};
    struct input input = {.bytes = bytes, .length = length};
    uint8_t near[ADDRESSES][16];
    memset(near, 0, sizeof(near));
    for (uint32_t i = 0; i < ADDRESSES; i++)
        for (uint32_t k = 0; k < 16; k += 4)
            near[i][k] = input_u8(&input);
    struct trie *trie = trie_new();
    model_count = 0;
    for (bool room = true; room && input_left(&input, 8);) {
        uint8_t operation = input_u8(&input), where = input_u8(&input), cidr = input_u8(&input);
        struct udpring_prefix prefix = {.family = operation & 1 ? AF_INET6 : AF_INET,
                                        .peer = peers[input_u8(&input) % UR_ARRAY_LENGTH(peers)]};
        uint8_t change[4];
        input_copy(&input, change, sizeof(change));
        prefix.cidr = (uint8_t)(cidr % (prefix.family == AF_INET ? 33 : 129));
        memcpy(prefix.ip, near[where % ADDRESSES], 16);
        for (uint32_t i = 0; i < 4; i++)
            prefix.ip[(where >> 4) % 13 + i] ^= change[i];
        switch (operation >> 1 & 7) {
        case 0: case 1: case 2: room = insert(trie, prefix); break;
        case 3: case 4: remove_one(trie, prefix); break;
        case 5: if (where > 200) remove_peer(trie, prefix.peer); break;
        case 6: refuses(trie, prefix); break;
        default: break;
        }
        check(trie, &prefix, change[0], change[2]);
    }
    trie_free(trie);
    return 0;
}
