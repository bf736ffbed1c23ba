/* The map of ids and the table of receiver indices, against arrays with linear search. */
#include <sys/random.h>

#include "input.h"
#include "tunnel/peers/id_map.h"
#include "tunnel/peers/index_table.h"

enum { MODEL_MAX = 512 };

struct pair {
    uint32_t id, value;
};
/* Owner: the harness. Entries in any order. */
struct model {
    struct pair pair[MODEL_MAX];
    uint32_t count;
};

static struct model map_model, table_model;
static uint32_t drawn;

/* The same numbers for the same input. */
ssize_t __wrap_getrandom(void *into, size_t bytes, unsigned flags);
ssize_t __wrap_getrandom(void *into, size_t bytes, unsigned flags)
{
    for (size_t i = 0; i < bytes; i++) {
        drawn = drawn * 1664525u + 1013904223u;
        ((uint8_t *)into)[i] = (uint8_t)(drawn >> 24);
    }
    return (ssize_t)bytes;
}

static struct pair *find(struct model *model, uint32_t id)
{
    for (uint32_t i = 0; i < model->count; i++)
        if (model->pair[i].id == id)
            return &model->pair[i];
    return NULL;
}

static void forget(struct model *model, uint32_t id)
{
    struct pair *pair = find(model, id);
    if (pair)
        *pair = model->pair[--model->count];
}

static void put(struct id_map *map, uint32_t id, uint32_t value)
{
    struct pair *pair = find(&map_model, id);
    if (!pair && map_model.count == MODEL_MAX)
        return;
    CLAIM(id_map_put(map, id, value) == 0, "put of %u", id);
    if (!pair)
        pair = &map_model.pair[map_model.count++];
    *pair = (struct pair){id, value};
}

static void new_index(struct index_table *table, uint32_t peer)
{
    uint32_t index;
    if (table_model.count == MODEL_MAX)
        return;
    CLAIM(index_table_new(table, peer, &index) == 0, "a new index");
    CLAIM(!find(&table_model, index), "index %u is in use", index);
    table_model.pair[table_model.count++] = (struct pair){index, peer};
}

static void check(const struct id_map *map, const struct index_table *table, uint32_t other)
{
    CLAIM(map->count == map_model.count, "%u ids, not %u", map->count, map_model.count);
    CLAIM(table->count == table_model.count, "%u indices, not %u", table->count, table_model.count);
    for (uint32_t i = 0; i < map_model.count; i++) {
        const uint32_t *value = id_map_find(map, map_model.pair[i].id);
        CLAIM(value && *value == map_model.pair[i].value, "id %u", map_model.pair[i].id);
    }
    for (uint32_t i = 0; i < table_model.count; i++) {
        const struct index_entry *entry = index_table_find(table, table_model.pair[i].id);
        CLAIM(entry && entry->index == table_model.pair[i].id && entry->peer == table_model.pair[i].value && !entry->keypair,
              "index %u", table_model.pair[i].id);
    }
    CLAIM(find(&map_model, other) || !id_map_find(map, other), "id %u was never put in", other);
    CLAIM(find(&table_model, other) || !index_table_find(table, other), "index %u is nobody's", other);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    drawn = 1;
    struct input input = {.bytes = bytes, .length = length};
    struct id_map map = {0};
    struct index_table table;
    CLAIM(index_table_open(&table) == 0, "an empty table");
    map_model.count = table_model.count = 0;
    while (input_left(&input, 6)) {
        uint8_t operation = input_u8(&input);
        uint32_t id = input_u32(&input), value = input_u8(&input);
        if (operation & 1)
            id &= 0xf0000003u;   /* few ids, so that they collide */
        if (operation & 2)
            id <<= 28;
        if (operation & 4 && map_model.count)
            id = map_model.pair[id % map_model.count].id;
        uint32_t index = table_model.count ? table_model.pair[value % table_model.count].id : id;
        switch (operation >> 5) {
        case 0: case 1: case 2: put(&map, id, value); break;
        case 3: case 4: id_map_remove(&map, id); forget(&map_model, id); break;
        case 5: new_index(&table, operation); break;
        case 6: index_table_remove(&table, index); forget(&table_model, index); break;
        default: index_table_remove(&table, id); forget(&table_model, id); break;
        }
        check(&map, &table, id ^ value << 8);
    }
    id_map_close(&map);
    index_table_close(&table);
    return 0;
}
