/* The table of receiver indices by itself. */
#include "tunnel/peers/index_table.h"

#include <stdlib.h>

#include "abi.h"

struct udpring_index_table {
    struct index_table table;
};

struct udpring_index_table *udpring_index_open(void)
{
    struct udpring_index_table *table = malloc(sizeof(*table));
    if (table && index_table_open(&table->table)) {
        free(table);
        table = NULL;
    }
    return table;
}

void udpring_index_close(struct udpring_index_table *table)
{
    if (table)
        index_table_close(&table->table);
    free(table);
}

int32_t udpring_index_new(struct udpring_index_table *table, uint32_t peer, uint32_t *index)
{
    return index_table_new(&table->table, peer, index);
}

uint32_t udpring_index_find(const struct udpring_index_table *table, uint32_t index)
{
    const struct index_entry *entry = index_table_find(&table->table, index);
    return entry && entry->index == index ? entry->peer : UDPRING_PEER_NONE;
}

void udpring_index_remove(struct udpring_index_table *table, uint32_t index)
{
    index_table_remove(&table->table, index);
}

uint32_t udpring_index_count(const struct udpring_index_table *table)
{
    return table->table.count;
}
