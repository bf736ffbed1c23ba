/* What every room of the C core shares with Python. Each room adds its own abi.h beside its code.
 * Read by the compiler and by cffi alike: declarations and integer #defines only. */
#ifndef UDPRING_ABI_H
#define UDPRING_ABI_H
#include <stddef.h>
#include <stdint.h>

/* Why something could not be had, in words for a person: what was wrong, where, what to do. */
#define UDPRING_REASON_BYTES 256
struct udpring_reason {
    char text[256];
};

/* Leaves all memory of the process out of core dumps, also the heap's later growth (secret.h). 0, or the error of opening /proc/self/maps. */
int32_t udpring_memory_hide(void);
/* Functions for the arenas of Python's objects: memory that core dumps leave out. */
void *udpring_arena_new(void *context, size_t size);
void udpring_arena_free(void *context, void *memory, size_t size);
#endif
