#include "id_map.h"

#include <stdlib.h>

#define FIRST_SLOTS 16u

/* Fibonacci hashing: consecutive ids and multiples of a power of two spread alike. */
static uint32_t home(const struct id_map *map, uint32_t id)
{
    return (uint32_t)((uint64_t)id * UINT64_C(0x9e3779b97f4a7c15) >> 32) & map->mask;
}

void id_map_close(struct id_map *map)
{
    free(map->slots);
    free(map->taken);
    memset(map, 0, sizeof(*map));
}

/* The slot of this id, or the empty one where it would go. The map must have slots. One in two is empty. */
static uint32_t probe(const struct id_map *map, uint32_t id)
{
    uint32_t at = home(map, id);
    while (map->taken[at] && map->slots[at].id != id)
        at = (at + 1) & map->mask;
    return at;
}

uint32_t *id_map_find(const struct id_map *map, uint32_t id)
{
    if (!map->slots)
        return NULL;
    uint32_t at = probe(map, id);
    return map->taken[at] ? &map->slots[at].value : NULL;
}

static int resize(struct id_map *map, uint32_t size)
{
    struct id_map larger = { .mask = size - 1, .count = map->count };
    larger.slots = malloc(size * sizeof(*larger.slots));
    larger.taken = calloc(size, 1);
    if (!larger.slots || !larger.taken) {
        id_map_close(&larger);
        return -ENOMEM;
    }
    for (uint32_t i = 0; map->slots && i <= map->mask; i++) {
        if (!map->taken[i])
            continue;
        uint32_t at = probe(&larger, map->slots[i].id);
        larger.slots[at] = map->slots[i];
        larger.taken[at] = 1;
    }
    id_map_close(map);
    *map = larger;
    return 0;
}

int id_map_reserve(struct id_map *map)
{
    if (map->count >= ID_MAP_MAX)
        return -ENOSPC;
    if (!map->slots)
        return resize(map, FIRST_SLOTS);
    return map->count + 1 > (map->mask + 1) / 2 ? resize(map, (map->mask + 1) * 2) : 0;
}

int id_map_put(struct id_map *map, uint32_t id, uint32_t value)
{
    uint32_t *there = id_map_find(map, id);
    if (there) {
        *there = value;
        return 0;
    }
    int error = id_map_reserve(map);
    if (error)
        return error;
    uint32_t at = probe(map, id);
    map->slots[at] = (struct id_map_slot){ .id = id, .value = value };
    map->taken[at] = 1;
    map->count++;
    return 0;
}

/* Closes the gap: an entry behind it moves back if the gap lies between its home slot and its present one. */
void id_map_remove(struct id_map *map, uint32_t id)
{
    if (!map->slots)
        return;
    uint32_t gap = probe(map, id);
    if (!map->taken[gap])
        return;
    for (uint32_t at = (gap + 1) & map->mask; map->taken[at]; at = (at + 1) & map->mask) {
        uint32_t distance = (at - home(map, map->slots[at].id)) & map->mask;
        if (distance >= ((at - gap) & map->mask)) {
            map->slots[gap] = map->slots[at];
            gap = at;
        }
    }
    map->taken[gap] = 0;
    map->count--;
}
