/* Receiver indices: random 32-bit numbers by which a peer names a handshake or a keypair of this node. */
#ifndef UDPRING_TUNNEL_PEERS_INDEX_TABLE_H
#define UDPRING_TUNNEL_PEERS_INDEX_TABLE_H
#include "../abi.h"

#include "id_map.h"

#define INDEX_TABLE_MAX (1u << 22)

struct index_entry {
    uint32_t index;
    uint32_t peer;    /* UDPRING_PEER_NONE: in reserve */
    void *keypair;    /* NULL while it is a handshake's. Set and owned by the user of the table */
};

/* Owner: the plane. Thread: the worker. Freed by index_table_close(), which does not touch what keypair points to. */
struct index_table {
    struct id_map slots;            /* index -> position in entries */
    struct index_entry *entries;    /* [capacity], the first count of them in use, in no order */
    uint32_t count, capacity;
    uint32_t reserved;              /* of count: in reserve */
};

int index_table_open(struct index_table *table) UR_MUST_CHECK;
void index_table_close(struct index_table *table);
/* O(1). The entry is valid until the next new or remove. NULL if no entry has the index. */
struct index_entry *index_table_find(const struct index_table *table, uint32_t index);
/* A random index that nothing in the table has. 0, -ENOMEM, -ENOSPC (INDEX_TABLE_MAX in use), -EIO (no randomness). */
int index_table_new(struct index_table *table, uint32_t peer, uint32_t *index) UR_MUST_CHECK;
/* Gives an entry that is in reserve to the peer. Whether it is the peer's. */
bool index_table_claim(struct index_table *table, struct index_entry *entry, uint32_t peer);
void index_table_remove(struct index_table *table, uint32_t index);    /* an unknown index is fine */
#endif
