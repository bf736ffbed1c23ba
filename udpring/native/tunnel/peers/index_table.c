#include "index_table.h"

#include <stdlib.h>
#include <sys/random.h>

#define FIRST_CAPACITY 64u

_Static_assert(INDEX_TABLE_MAX <= ID_MAP_MAX, "the map has room for every index");

int index_table_open(struct index_table *table)
{
    memset(table, 0, sizeof(*table));
    table->entries = calloc(FIRST_CAPACITY, sizeof(*table->entries));
    if (!table->entries)
        return -ENOMEM;
    table->capacity = FIRST_CAPACITY;
    return 0;
}

void index_table_close(struct index_table *table)
{
    id_map_close(&table->slots);
    free(table->entries);
    memset(table, 0, sizeof(*table));
}

struct index_entry *index_table_find(const struct index_table *table, uint32_t index)
{
    const uint32_t *position = id_map_find(&table->slots, index);
    return position ? &table->entries[*position] : NULL;
}

static int random_index(uint32_t *index)
{
    for (;;) {
        ssize_t got = getrandom(index, sizeof(*index), 0);
        if (got == (ssize_t)sizeof(*index))
            return 0;
        if (got >= 0 || errno != EINTR)
            return -EIO;
    }
}

int index_table_new(struct index_table *table, uint32_t peer, uint32_t *index)
{
    if (table->count >= INDEX_TABLE_MAX)
        return -ENOSPC;
    if (table->count == table->capacity) {
        struct index_entry *larger = realloc(table->entries, 2 * (size_t)table->capacity * sizeof(*larger));
        if (!larger)
            return -ENOMEM;
        table->entries = larger;
        table->capacity *= 2;
    }
    /* At most one number in 2^10 is taken, so this ends soon. */
    uint32_t fresh;
    do {
        int error = random_index(&fresh);
        if (error)
            return error;
    } while (index_table_find(table, fresh));
    int error = id_map_put(&table->slots, fresh, table->count);
    if (error)
        return error;
    table->entries[table->count++] = (struct index_entry){ .index = fresh, .peer = peer };
    table->reserved += peer == UDPRING_PEER_NONE;
    *index = fresh;
    return 0;
}

bool index_table_claim(struct index_table *table, struct index_entry *entry, uint32_t peer)
{
    if (entry->peer == UDPRING_PEER_NONE && peer != UDPRING_PEER_NONE) {
        entry->peer = peer;
        table->reserved--;
    }
    return entry->peer == peer;
}

/* The last entry takes the place of the one that goes, so that the entries in use stay together. */
void index_table_remove(struct index_table *table, uint32_t index)
{
    const uint32_t *found = id_map_find(&table->slots, index);
    if (!found)
        return;
    uint32_t position = *found;
    id_map_remove(&table->slots, index);
    table->reserved -= table->entries[position].peer == UDPRING_PEER_NONE;
    table->count--;
    if (position != table->count) {
        table->entries[position] = table->entries[table->count];
        *id_map_find(&table->slots, table->entries[position].index) = position;
    }
    table->entries[table->count] = (struct index_entry){ 0 };
}
