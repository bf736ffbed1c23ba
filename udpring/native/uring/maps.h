/* The mapped queues of a ring. Inside this room only: mapped by setup.c, unmapped by close.c. */
#ifndef UDPRING_URING_MAPS_H
#define UDPRING_URING_MAPS_H
#include "ring.h"

void ur_unmap_queues(struct ur_ring *ring);
#endif
