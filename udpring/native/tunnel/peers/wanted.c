#include "wanted.h"

#include <stdlib.h>

int wanted_open(struct wanted_table **table, size_t most_bytes)
{
    *table = calloc(1, sizeof(**table));
    if (!*table)
        return -ENOMEM;
    (*table)->staged.most = most_bytes;
    (*table)->seed = ur_clock_ns(CLOCK_BOOTTIME) * 0x9e3779b97f4a7c15ull;
    return 0;
}

uint32_t wanted_forget(struct wanted_table *table, struct wanted *entry)
{
    uint32_t packets = entry->staging.count;
    while (entry->staging.count)
        staging_forget(&table->staged, &entry->staging);
    free(entry->staging.packets);
    table->asked -= entry->state == WANTED_ASKED;
    *entry = (struct wanted){0};
    return packets;
}

void wanted_close(struct wanted_table *table)
{
    if (!table)
        return;
    for (uint32_t i = 0; i < WANTED_ENTRIES; i++)
        wanted_forget(table, &table->entries[i]);
    free(table);
}

static bool same(const struct wanted_key *a, const struct wanted_key *b)
{
    return a->high == b->high && a->low == b->low && a->v6 == b->v6;
}

static struct wanted *set_of(struct wanted_table *table, const struct wanted_key *key)
{
    uint64_t hash = (key->high ^ table->seed) * 0x9e3779b97f4a7c15ull;
    hash = ((hash ^ hash >> 32) ^ key->low ^ key->v6) * 0xff51afd7ed558ccdull;
    return &table->entries[hash >> 32 & (WANTED_ENTRIES - WANTED_WAYS)];
}

struct wanted *wanted_find(struct wanted_table *table, const struct wanted_key *key)
{
    struct wanted *set = set_of(table, key);
    for (uint32_t i = 0; i < WANTED_WAYS; i++)
        if (set[i].state != WANTED_FREE && same(&set[i].key, key))
            return &set[i];
    return NULL;
}

struct wanted *wanted_take(struct wanted_table *table, const struct wanted_key *key, uint64_t now)
{
    struct wanted *set = set_of(table, key), *oldest = NULL;
    for (uint32_t i = 0; i < WANTED_WAYS; i++) {
        if (set[i].state == WANTED_FREE)
            return &set[i];
        if (set[i].state == WANTED_ASKED && now < set[i].until_ns)
            continue;
        if (!oldest || set[i].until_ns < oldest->until_ns)
            oldest = &set[i];
    }
    return oldest;
}
