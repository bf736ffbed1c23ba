/* The end of the mapped queues of a ring. */
#include "maps.h"

#include <sys/mman.h>

void ur_unmap_queues(struct ur_ring *ring)
{
    if (ring->sqes)
        munmap(ring->sqes, ring->sqes_bytes);
    if (ring->cq_map && ring->cq_map != ring->sq_map)
        munmap(ring->cq_map, ring->cq_map_bytes);
    if (ring->sq_map)
        munmap(ring->sq_map, ring->sq_map_bytes);
    ring->sqes = NULL;
    ring->sq_map = ring->cq_map = NULL;
}
