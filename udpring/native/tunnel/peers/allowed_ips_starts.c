/* Where searches begin in a large trie of IPv4 prefixes, by the first 16 bits of the address.
 *
 * An entry names only nodes whose prefix begins with its own 16 bits, and a peer. So a prefix of at least 16 bits changes one
 * entry, and a shorter one changes the entries that it covers. */
#include <stdlib.h>

#include "allowed_ips.h"

#define STARTS_FROM 1024u    /* prefixes: with fewer, a search is short, and the table costs 512 KiB */

/* The search of allowed_ips_lookup4() as far as 16 bits decide it. */
static struct allowed_ips_start start_of(const struct trie *trie, uint64_t key)
{
    struct allowed_ips_start start = { .peer = UDPRING_PEER_NONE };
    uint32_t at = trie->root[0];
    while (at && trie->nodes[at].cidr < 16) {
        const struct allowed_ips_node *node = &trie->nodes[at];
        if ((node->high ^ key) >> 1 >> (63 - node->cidr))
            return start;
        if (node->peer != UDPRING_PEER_NONE)
            start.peer = node->peer;
        at = node->child[key >> (63 - node->cidr) & 1];
    }
    if (at && (trie->nodes[at].high ^ key) >> 48 == 0)
        start.at = at;
    return start;
}

void trie_starts_update(struct trie *trie, uint64_t high, unsigned cidr)
{
    if (!trie->starts) {
        if (trie->prefixes < STARTS_FROM)
            return;
        trie->starts = malloc(ALLOWED_IPS_STARTS * sizeof(*trie->starts));
        if (!trie->starts)
            return;    /* the search from the root is right, too */
        high = cidr = 0;
    }
    uint64_t first = cidr ? high >> 48 & (UINT64_MAX << (cidr < 16 ? 16 - cidr : 0)) : 0;
    uint64_t count = cidr < 16 ? UINT64_C(1) << (16 - cidr) : 1;
    for (uint64_t i = first; i < first + count; i++)
        trie->starts[i] = start_of(trie, i << 48);
}
