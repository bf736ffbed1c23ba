#include "allowed_ips.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIRST_CAPACITY 64u
#define HUGE_FROM_BYTES (4u << 20)

_Static_assert(sizeof(struct allowed_ips_node) == 48, "a node and its children fit well into cache lines");
_Static_assert(ALLOWED_IPS_MAX <= ID_MAP_MAX, "the map has room for a peer a prefix");

/* A prefix that is looked for: its host bits may be set, as only the first cidr bits are ever compared. */
struct key {
    uint64_t high, low;
    uint8_t cidr, v6;
};

static unsigned bit_at(uint64_t high, uint64_t low, unsigned position)
{
    if (position >= 128)
        return 0;
    return (position < 64 ? high >> (63 - position) : low >> (127 - position)) & 1;
}

/* How many leading bits two keys share, at most 128. */
static unsigned shared_bits(const struct allowed_ips_node *node, const struct key *key)
{
    if (node->high != key->high)
        return (unsigned)__builtin_clzll(node->high ^ key->high);
    return node->low != key->low ? 64 + (unsigned)__builtin_clzll(node->low ^ key->low) : 128;
}

static void mask_host_bits(struct allowed_ips_node *node)
{
    if (node->cidr < 64) {
        node->high &= node->cidr ? UINT64_MAX << (64 - node->cidr) : 0;
        node->low = 0;
    } else if (node->cidr < 128) {
        node->low &= node->cidr > 64 ? UINT64_MAX << (128 - node->cidr) : 0;
    }
}

static int key_of(const struct udpring_prefix *prefix, struct key *key)
{
    *key = (struct key){ .cidr = prefix->cidr };
    if (prefix->family == AF_INET && prefix->cidr <= 32) {
        uint8_t wide[8] = { prefix->ip[0], prefix->ip[1], prefix->ip[2], prefix->ip[3] };
        key->high = allowed_ips_word(wide);
    } else if (prefix->family == AF_INET6 && prefix->cidr <= 128) {
        key->v6 = 1;
        key->high = allowed_ips_word(prefix->ip);
        key->low = allowed_ips_word(prefix->ip + 8);
    } else {
        return -EINVAL;
    }
    return 0;
}

/* ---- the pool of nodes ---- */

/* A search of a large trie reads nodes at random: with small pages, each is also a miss of the page tables' cache. */
static void in_huge_pages(void *memory, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), first = ((uintptr_t)memory + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)memory + bytes) & ~(page - 1);
    if (bytes >= HUGE_FROM_BYTES)
        (void)madvise((void *)first, end - first, MADV_HUGEPAGE);    /* -EINVAL: the kernel has none */
}

static int reserve_two(struct trie *trie)
{
    if (trie->free_count + (trie->capacity - trie->used) >= 2)
        return 0;
    uint32_t capacity = trie->capacity ? 2 * trie->capacity : FIRST_CAPACITY;
    struct allowed_ips_node *nodes = realloc(trie->nodes, capacity * sizeof(*nodes));
    if (!nodes)
        return -ENOMEM;
    trie->nodes = nodes;
    trie->capacity = capacity;
    in_huge_pages(nodes, capacity * sizeof(*nodes));
    if (!trie->used)
        trie->used = 1;    /* position 0 means none */
    return 0;
}

static uint32_t take_node(struct trie *trie, const struct key *key, unsigned cidr)
{
    uint32_t at = trie->free;
    if (at) {
        trie->free = trie->nodes[at].child[0];
        trie->free_count--;
    } else {
        at = trie->used++;
    }
    trie->nodes[at] = (struct allowed_ips_node){ .high = key->high, .low = key->low, .cidr = (uint8_t)cidr,
                                                 .v6 = key->v6, .peer = UDPRING_PEER_NONE };
    mask_host_bits(&trie->nodes[at]);
    return at;
}

static void give_node(struct trie *trie, uint32_t at)
{
    trie->nodes[at].child[0] = trie->free;
    trie->free = at;
    trie->free_count++;
}

/* An empty trie holds no memory. */
static void release_if_empty(struct trie *trie)
{
    if (trie->prefixes)
        return;
    free(trie->nodes);
    free(trie->starts);
    id_map_close(&trie->lists);
    memset(trie, 0, sizeof(*trie));
}

/* ---- each peer's list of prefixes ---- */

/* Never fails once room in trie->lists has been reserved. */
static int list_add(struct trie *trie, uint32_t at, uint32_t peer)
{
    struct allowed_ips_node *node = &trie->nodes[at];
    uint32_t *first = id_map_find(&trie->lists, peer);
    node->peer = peer;
    node->previous = 0;
    node->next = first ? *first : 0;
    if (node->next)
        trie->nodes[node->next].previous = at;
    return id_map_put(&trie->lists, peer, at);
}

static void list_take(struct trie *trie, uint32_t at)
{
    struct allowed_ips_node *node = &trie->nodes[at];
    if (node->next)
        trie->nodes[node->next].previous = node->previous;
    if (node->previous)
        trie->nodes[node->previous].next = node->next;
    else if (node->next)
        *id_map_find(&trie->lists, node->peer) = node->next;
    else
        id_map_remove(&trie->lists, node->peer);
    node->peer = UDPRING_PEER_NONE;
}

/* ---- the trie ---- */

/* Puts `with` (0: nothing) where `at` hangs. */
static void replace(struct trie *trie, uint32_t at, uint32_t with)
{
    const struct allowed_ips_node *node = &trie->nodes[at];
    if (!node->parent)
        trie->root[node->v6] = with;
    else
        trie->nodes[node->parent].child[trie->nodes[node->parent].child[1] == at] = with;
    if (with)
        trie->nodes[with].parent = node->parent;
}

static void adopt(struct trie *trie, uint32_t parent, uint32_t child)
{
    struct allowed_ips_node *above = &trie->nodes[parent], *below = &trie->nodes[child];
    above->child[bit_at(below->high, below->low, above->cidr)] = child;
    below->parent = parent;
}

/* The longest node on the way to the key that covers it, maybe the key itself. *next: its child on that way. */
static uint32_t closest(const struct trie *trie, const struct key *key, uint32_t *next)
{
    uint32_t parent = 0, at = trie->root[key->v6];
    while (at && trie->nodes[at].cidr <= key->cidr && shared_bits(&trie->nodes[at], key) >= trie->nodes[at].cidr) {
        parent = at;
        at = trie->nodes[at].cidr == key->cidr ? 0 : trie->nodes[at].child[bit_at(key->high, key->low, trie->nodes[at].cidr)];
    }
    *next = at;
    return parent;
}

/* Hangs a new node for the key between `parent` (0: the root) and `below` (0: nothing there). Two nodes are reserved. */
static uint32_t place(struct trie *trie, const struct key *key, uint32_t parent, uint32_t below)
{
    uint32_t made = take_node(trie, key, key->cidr), top = made;
    if (below) {
        unsigned shared = shared_bits(&trie->nodes[below], key);
        if (shared < key->cidr)
            top = take_node(trie, key, shared);
        replace(trie, below, top);
        adopt(trie, top, below);
        if (top != made)
            adopt(trie, top, made);
    } else if (parent) {
        adopt(trie, parent, made);
    } else {
        trie->root[key->v6] = made;
    }
    return made;
}

static int insert(struct trie *trie, const struct key *key, uint32_t peer, bool claim)
{
    if (peer == UDPRING_PEER_NONE)
        return -EINVAL;
    uint32_t below, at = closest(trie, key, &below);
    bool there = at && trie->nodes[at].cidr == key->cidr;
    if (there && trie->nodes[at].peer == peer)
        return 0;
    bool counts = !there || trie->nodes[at].peer == UDPRING_PEER_NONE;
    if (claim && !counts)
        return -EEXIST;
    if ((counts && trie->prefixes >= ALLOWED_IPS_MAX) || reserve_two(trie) || id_map_reserve(&trie->lists))
        return -ENOMEM;
    if (!there)
        at = place(trie, key, at, below);
    else if (!counts)
        list_take(trie, at);
    trie->prefixes += counts;
    int error = list_add(trie, at, peer);
    if (!key->v6)
        trie_starts_update(trie, key->high, key->cidr);
    return error;
}

/* A node with fewer than two children and no peer has no reason to be. */
static void prune(struct trie *trie, uint32_t at)
{
    while (at) {
        struct allowed_ips_node *node = &trie->nodes[at];
        if (node->peer != UDPRING_PEER_NONE || (node->child[0] && node->child[1]))
            return;
        uint32_t child = node->child[0] ? node->child[0] : node->child[1], parent = node->parent;
        replace(trie, at, child);
        give_node(trie, at);
        at = child ? 0 : parent;
    }
}

static void remove_node(struct trie *trie, uint32_t at)
{
    struct allowed_ips_node gone = trie->nodes[at];
    list_take(trie, at);
    trie->prefixes--;
    prune(trie, at);
    if (!gone.v6)
        trie_starts_update(trie, gone.high, gone.cidr);
}

static void remove_prefix(struct trie *trie, const struct key *key, uint32_t peer)
{
    uint32_t below, at = closest(trie, key, &below);
    if (at && trie->nodes[at].cidr == key->cidr && trie->nodes[at].peer == peer && peer != UDPRING_PEER_NONE) {
        remove_node(trie, at);
        release_if_empty(trie);
    }
}

struct trie *trie_new(void)
{
    return calloc(1, sizeof(struct trie));
}

void trie_free(struct trie *trie)
{
    if (!trie)
        return;
    free(trie->nodes);
    free(trie->starts);
    id_map_close(&trie->lists);
    free(trie);
}

int32_t trie_apply(struct trie *trie, const struct udpring_prefix *prefixes, uint32_t count, uint32_t *done)
{
    for (*done = 0; *done < count; ++*done) {
        struct key key;
        int error = key_of(&prefixes[*done], &key);
        if (error)
            return error;
        uint8_t how = prefixes[*done].remove;
        if (how == UDPRING_PREFIX_REMOVE)
            remove_prefix(trie, &key, prefixes[*done].peer);
        else
            error = insert(trie, &key, prefixes[*done].peer, how == UDPRING_PREFIX_CLAIM);
        if (error)
            return error;
    }
    return 0;
}

void trie_remove_peer(struct trie *trie, uint32_t peer)
{
    const uint32_t *first;
    while ((first = id_map_find(&trie->lists, peer)))
        remove_node(trie, *first);
    release_if_empty(trie);
}

uint32_t trie_lookup(const struct trie *trie, uint16_t family, const uint8_t *ip)
{
    if (family == AF_INET)
        return allowed_ips_lookup4(trie, ip);
    return family == AF_INET6 ? allowed_ips_lookup6(trie, ip) : UDPRING_PEER_NONE;
}

uint32_t trie_count(const struct trie *trie)
{
    return trie->prefixes;
}

static void describe(const struct allowed_ips_node *node, struct udpring_prefix *out)
{
    *out = (struct udpring_prefix){ .family = node->v6 ? AF_INET6 : AF_INET, .cidr = node->cidr, .peer = node->peer };
    for (unsigned i = 0; i < 8; i++) {
        out->ip[i] = (uint8_t)(node->high >> (56 - 8 * i));
        out->ip[8 + i] = (uint8_t)(node->low >> (56 - 8 * i));
    }
}

static int ascending(const void *left, const void *right)
{
    const struct udpring_prefix *a = left, *b = right;
    if (a->family != b->family)
        return a->family == AF_INET ? -1 : 1;
    int order = memcmp(a->ip, b->ip, sizeof(a->ip));
    return order ? order : (int)a->cidr - (int)b->cidr;
}

/* The next node in ascending order: parents before children, 0 before 1. */
static uint32_t successor(const struct trie *trie, uint32_t at)
{
    const struct allowed_ips_node *nodes = trie->nodes;
    if (nodes[at].child[0] || nodes[at].child[1])
        return nodes[at].child[0] ? nodes[at].child[0] : nodes[at].child[1];
    for (uint32_t parent = nodes[at].parent; parent; at = parent, parent = nodes[at].parent)
        if (nodes[parent].child[0] == at && nodes[parent].child[1])
            return nodes[parent].child[1];
    return 0;
}

/* The first of more prefixes than there is room for: by walking the tries, which are in order. */
static void list_first(const struct trie *trie, uint32_t peer, struct udpring_prefix *out, uint32_t max)
{
    uint32_t filled = 0;
    for (unsigned v6 = 0; v6 < 2; v6++)
        for (uint32_t at = trie->root[v6]; at && filled < max; at = successor(trie, at))
            if (trie->nodes[at].peer == peer)
                describe(&trie->nodes[at], &out[filled++]);
}

uint32_t trie_list(const struct trie *trie, uint32_t peer, struct udpring_prefix *out, uint32_t max)
{
    const uint32_t *first = id_map_find(&trie->lists, peer);
    uint32_t count = 0;
    for (uint32_t at = first ? *first : 0; at; at = trie->nodes[at].next) {
        if (count < max)
            describe(&trie->nodes[at], &out[count]);
        count++;
    }
    if (count <= max && count > 1)
        qsort(out, count, sizeof(*out), ascending);
    else if (count > max)
        list_first(trie, peer, out, max);
    return count;
}
