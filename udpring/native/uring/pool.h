/* Blocks of memory for operations, by size class. A block that an operation gives back serves the next one of its class.
 * A block of 512 bytes or more is aligned to its size, up to a page, so that O_DIRECT takes it.
 * Owner: the ring. Thread: its owner. Freed by ur_pool_close(). */
#ifndef UDPRING_URING_POOL_H
#define UDPRING_URING_POOL_H
#include "../base.h"

#define UR_POOL_LEAST 64u          /* bytes of the smallest class */
#define UR_POOL_CLASSES 15u        /* up to 1 MiB. Longer blocks are not kept */
#define UR_POOL_KEPT (8u << 20)    /* bytes that a ring keeps at most in blocks that no operation uses */

struct ur_pool {
    void *free[UR_POOL_CLASSES];
    size_t kept;
};

/* The bytes that a block for this many has. */
size_t ur_pool_size(size_t bytes);
/* A block, not zeroed, or NULL. */
uint8_t *ur_pool_take(struct ur_pool *pool, size_t bytes);
/* bytes: as given to take. NULL is none. */
void ur_pool_give(struct ur_pool *pool, uint8_t *block, size_t bytes);
void ur_pool_close(struct ur_pool *pool);
#endif
