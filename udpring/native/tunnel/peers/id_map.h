/* A map from 32-bit ids to 32-bit values: open addressing, linear probing, at most half full, no tombstones. */
#ifndef UDPRING_TUNNEL_PEERS_ID_MAP_H
#define UDPRING_TUNNEL_PEERS_ID_MAP_H
#include "../../base.h"

#define ID_MAP_MAX (1u << 23)    /* entries. A map that would grow past it says -ENOSPC */

struct id_map_slot {
    uint32_t id, value;
};

/* Owner: the struct that embeds it. Thread: the owner's. Zeroed memory is an empty map. Freed by id_map_close(). */
struct id_map {
    struct id_map_slot *slots;   /* [mask + 1], NULL while nothing was ever put in */
    uint8_t *taken;              /* [mask + 1] */
    uint32_t mask, count;
};

void id_map_close(struct id_map *map);
/* Where the value of this id is, or NULL. Valid until the next put or remove. */
uint32_t *id_map_find(const struct id_map *map, uint32_t id);
/* Sets the value of an id, new or not. 0, -ENOMEM, -ENOSPC: the map is then as it was. */
int id_map_put(struct id_map *map, uint32_t id, uint32_t value) UR_MUST_CHECK;
/* Makes room for one more id, so that the next put of a new one cannot fail. */
int id_map_reserve(struct id_map *map) UR_MUST_CHECK;
void id_map_remove(struct id_map *map, uint32_t id);
#endif
