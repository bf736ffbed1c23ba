#include "graveyard.h"

#include <pthread.h>
#include <stdlib.h>

/* Owner: none. Thread: any, under the lock. Freed: never. Kept in a list, so that leak checkers and debuggers find the
 * memory. */
struct grave {
    struct grave *next;
    void *memory;
    size_t bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct grave *graves;
static uint64_t bytes_total, blocks_total;

void ur_graveyard_leak(void *memory, size_t bytes)
{
    if (!memory)
        return;
    struct grave *grave = malloc(sizeof(*grave));   /* on failure the memory is only counted */
    pthread_mutex_lock(&lock);
    if (grave) {
        *grave = (struct grave){.next = graves, .memory = memory, .bytes = bytes};
        graves = grave;
    }
    bytes_total += bytes;
    blocks_total++;
    pthread_mutex_unlock(&lock);
}

static uint64_t locked_read(const uint64_t *counter)
{
    pthread_mutex_lock(&lock);
    uint64_t value = *counter;
    pthread_mutex_unlock(&lock);
    return value;
}

uint64_t ur_graveyard_bytes(void)
{
    return locked_read(&bytes_total);
}

uint64_t ur_graveyard_blocks(void)
{
    return locked_read(&blocks_total);
}
