/* The size of the trie of allowed IPs. */
#include "tunnel/peers/allowed_ips.h"

#include "abi.h"

uint32_t trie_nodes(const struct trie *trie)
{
    return trie->used ? trie->used - 1 - trie->free_count : 0;
}
