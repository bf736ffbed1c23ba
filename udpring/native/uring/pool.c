#include "pool.h"

#include <stdlib.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#endif

#define PAGE 4096u

static unsigned class_of(size_t bytes)
{
    if (bytes <= UR_POOL_LEAST)
        return 0;
    return (unsigned)(64 - __builtin_clzll((unsigned long long)bytes - 1)) - 6;
}

size_t ur_pool_size(size_t bytes)
{
    unsigned class = class_of(bytes);
    return class < UR_POOL_CLASSES ? (size_t)UR_POOL_LEAST << class : (bytes + PAGE - 1) & ~(size_t)(PAGE - 1);
}

uint8_t *ur_pool_take(struct ur_pool *pool, size_t bytes)
{
    unsigned class = class_of(bytes);
    size_t size = ur_pool_size(bytes);
    if (class < UR_POOL_CLASSES && pool->free[class]) {
        void *block = pool->free[class];
        ASAN_UNPOISON_MEMORY_REGION(block, size);
        memcpy(&pool->free[class], block, sizeof(void *));
        pool->kept -= size;
        return block;
    }
    return aligned_alloc(size < PAGE ? size : PAGE, size);
}

void ur_pool_give(struct ur_pool *pool, uint8_t *block, size_t bytes)
{
    if (!block)
        return;
    unsigned class = class_of(bytes);
    size_t size = ur_pool_size(bytes);
    if (class >= UR_POOL_CLASSES || pool->kept + size > UR_POOL_KEPT) {
        free(block);
        return;
    }
    memcpy(block, &pool->free[class], sizeof(void *));
    pool->free[class] = block;
    pool->kept += size;
    ASAN_POISON_MEMORY_REGION(block, size);
}

void ur_pool_close(struct ur_pool *pool)
{
    for (unsigned class = 0; class < UR_POOL_CLASSES; class++) {
        while (pool->free[class]) {
            void *block = pool->free[class];
            ASAN_UNPOISON_MEMORY_REGION(block, (size_t)UR_POOL_LEAST << class);
            memcpy(&pool->free[class], block, sizeof(void *));
            free(block);
        }
    }
    pool->kept = 0;
}
