/* Which peer an inner address belongs to: a compressed binary trie for each family (cryptokey routing, whitepaper 2).
 *
 * A key is 128 bits in two host-order words, most significant bit first. An IPv4 address is the upper half of the first.
 * A node without a peer only branches and always has two children, so there are fewer such than prefixes. */
#ifndef UDPRING_TUNNEL_PEERS_ALLOWED_IPS_H
#define UDPRING_TUNNEL_PEERS_ALLOWED_IPS_H
#include "../../base.h"

#include "../abi.h"

#include "id_map.h"

#define ALLOWED_IPS_MAX (1u << 22)    /* prefixes. Past it insertion says -ENOMEM */
#define ALLOWED_IPS_STARTS (1u << 16)

/* Positions are indices into trie->nodes. 0 is none. */
struct allowed_ips_node {
    uint64_t high, low;            /* the prefix, host bits zero */
    uint32_t child[2];
    uint32_t parent;
    uint32_t peer;                 /* UDPRING_PEER_NONE: only a branch */
    uint32_t next, previous;       /* the list of this peer's prefixes */
    uint8_t cidr, v6;
};

/* Where the search for an IPv4 address begins, by its first 16 bits: the upper levels of a large trie are passed at once. */
struct allowed_ips_start {
    uint32_t at;                   /* the topmost node of at least 16 bits that begins with these. 0: none */
    uint32_t peer;                 /* of the longest prefix below 16 bits that covers them. UDPRING_PEER_NONE: none */
};

/* Owner: the plane, or a test. Thread: one at a time. Freed by trie_free(). */
struct trie {
    struct allowed_ips_node *nodes;   /* [capacity]; moves when it grows, freed when the trie is empty */
    uint32_t root[2];                 /* IPv4, IPv6 */
    uint32_t capacity, used, free;    /* used: first position never taken. free: list through child[0] */
    uint32_t free_count;
    uint32_t prefixes;
    struct id_map lists;              /* peer -> first node of its list */
    struct allowed_ips_start *starts; /* [ALLOWED_IPS_STARTS]; NULL: the trie has always been small, or there was no memory */
};

struct trie *trie_new(void);
void trie_free(struct trie *trie);
/* 0, -EINVAL (family, cidr, no peer), -EEXIST, -ENOMEM (or ALLOWED_IPS_MAX prefixes). *done = how many were applied. */
int32_t trie_apply(struct trie *trie, const struct udpring_prefix *prefixes, uint32_t count, uint32_t *done);
void trie_remove_peer(struct trie *trie, uint32_t peer);
uint32_t trie_lookup(const struct trie *trie, uint16_t family, const uint8_t *ip);   /* longest match */
/* A prefix of `cidr` bits in `high` came, went or has another peer (allowed_ips_starts.c). */
void trie_starts_update(struct trie *trie, uint64_t high, unsigned cidr);
/* The prefixes of one peer, IPv4 first, each family in ascending order. Returns how many there are, fills up to max. */
uint32_t trie_list(const struct trie *trie, uint32_t peer, struct udpring_prefix *out, uint32_t max);
uint32_t trie_count(const struct trie *trie);

static inline uint64_t allowed_ips_word(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof(word));
    return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap64(word) : word;
}

static inline uint32_t allowed_ips_lookup4(const struct trie *trie, const uint8_t ip[4])
{
    uint64_t key = (uint64_t)((uint32_t)ip[0] << 24 | (uint32_t)ip[1] << 16 | (uint32_t)ip[2] << 8 | ip[3]) << 32;
    uint32_t found = UDPRING_PEER_NONE, at = trie->root[0];
    if (trie->starts) {
        const struct allowed_ips_start *start = &trie->starts[key >> 48];
        found = start->peer;
        at = start->at;
    }
    while (at) {
        const struct allowed_ips_node *node = &trie->nodes[at];
        if ((node->high ^ key) >> 1 >> (63 - node->cidr))    /* in two steps: a shift by 64 is undefined */
            break;
        if (node->peer != UDPRING_PEER_NONE)
            found = node->peer;
        at = node->child[key >> (63 - node->cidr) & 1];      /* past /32 the bit is 0 and there is no child */
    }
    return found;
}

static inline uint32_t allowed_ips_lookup6(const struct trie *trie, const uint8_t ip[16])
{
    uint64_t high = allowed_ips_word(ip), low = allowed_ips_word(ip + 8);
    uint32_t found = UDPRING_PEER_NONE;
    for (uint32_t at = trie->root[1]; at;) {
        const struct allowed_ips_node *node = &trie->nodes[at];
        unsigned bit;
        if (node->cidr < 64) {
            if ((node->high ^ high) >> 1 >> (63 - node->cidr))
                break;
            bit = high >> (63 - node->cidr) & 1;
        } else {
            if (node->high != high || (node->cidr > 64 && (node->low ^ low) >> (128 - node->cidr)))
                break;
            bit = node->cidr < 128 ? low >> (127 - node->cidr) & 1 : 0;
        }
        if (node->peer != UDPRING_PEER_NONE)
            found = node->peer;
        at = node->child[bit];
    }
    return found;
}
#endif
