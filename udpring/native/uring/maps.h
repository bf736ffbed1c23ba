/* The mapped queues of a ring. For this folder only: setup.c maps them. */
#ifndef UDPRING_URING_MAPS_H
#define UDPRING_URING_MAPS_H
#include "ring.h"

void ur_unmap_queues(struct ur_ring *ring);
#endif
