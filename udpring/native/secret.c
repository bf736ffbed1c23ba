#include "secret.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Sizes are powers of two. Larger pieces have a mapping of their own. */
enum { LEAST_BITS = 6, MOST_BITS = 13, SIZES = MOST_BITS - LEAST_BITS + 1 };
#define REGION_BYTES ((size_t)256 << 10)

struct unused {
    struct unused *next;
};

/* Regions are kept for the life of the process. `lock` protects the lists and `fresh`. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct unused *lists[SIZES];
static uint8_t *fresh, *fresh_end;   /* the part of the last region that was never used */

/* Atomic. 0: not all memory is hidden. */
static uintptr_t hidden_end;

static void hide(void *memory, size_t bytes)
{
    (void)madvise(memory, bytes, MADV_DONTDUMP);   /* fails only where the kernel has no core dumps */
}

static void *map(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return NULL;
    hide(memory, bytes);
    return memory;
}

#if defined(__SANITIZE_ADDRESS__)
#define PLAIN 1   /* the sanitizer sees a wrong use only of memory that it hands out itself */
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PLAIN 1
#endif
#endif

#ifdef PLAIN
void *secret_new(size_t size)
{
    void *memory = aligned_alloc(SECRET_ALIGNMENT, (size + SECRET_ALIGNMENT - 1) / SECRET_ALIGNMENT * SECRET_ALIGNMENT);
    return memory ? memset(memory, 0, size) : NULL;
}

void secret_free(void *memory, size_t size)
{
    if (memory)
        explicit_bzero(memory, size);
    free(memory);
}
#else
static unsigned size_class(size_t size)
{
    unsigned number = 0;
    while (((size_t)1 << (LEAST_BITS + number)) < size)
        number++;
    return number;
}

/* With the lock. */
static void *cut(size_t bytes)
{
    if ((size_t)(fresh_end - fresh) < bytes) {
        uint8_t *region = map(REGION_BYTES);
        if (!region)
            return NULL;
        fresh = region;   /* less than one piece of the last region is lost */
        fresh_end = region + REGION_BYTES;
    }
    void *memory = fresh;
    fresh += bytes;
    return memory;
}

void *secret_new(size_t size)
{
    unsigned number = size_class(size);
    if (number >= SIZES)
        return map(size);
    pthread_mutex_lock(&lock);
    struct unused *found = lists[number];
    if (found)
        lists[number] = found->next;
    void *memory = found ? found : cut((size_t)1 << (LEAST_BITS + number));
    pthread_mutex_unlock(&lock);
    if (found)
        found->next = NULL;   /* the rest is zero */
    return memory;
}

void secret_free(void *memory, size_t size)
{
    unsigned number = size_class(size);
    if (!memory)
        return;
    explicit_bzero(memory, size);
    if (number >= SIZES) {
        munmap(memory, size);
        return;
    }
    struct unused *unused = memory;
    pthread_mutex_lock(&lock);
    unused->next = lists[number];
    lists[number] = unused;
    pthread_mutex_unlock(&lock);
}
#endif

/* ---- all memory of the process ---- */

/* A line of /proc/self/maps: BEGIN-END rwxp ... What others share or nobody writes holds no keys. Pages that may not be read yet are
 * those that the C library keeps for later. */
static void hide_line(const char *line)
{
    unsigned long begin, end;
    char rights[5];
    if (sscanf(line, "%lx-%lx %4s", &begin, &end, rights) != 3 || rights[3] != 'p')
        return;
    if (rights[1] == 'w' || rights[0] == '-')
        hide((void *)begin, end - begin);
}

int32_t udpring_memory_hide(void)
{
    FILE *maps = fopen("/proc/self/maps", "re");
    if (!maps)
        return -errno;
    char line[4608];
    while (fgets(line, sizeof(line), maps))
        hide_line(line);
    fclose(maps);
    __atomic_store_n(&hidden_end, (uintptr_t)sbrk(0), __ATOMIC_RELEASE);
    return 0;
}

void secret_see_heap(void)
{
    uintptr_t before = __atomic_load_n(&hidden_end, __ATOMIC_ACQUIRE), now;
    if (ur_likely(!before || (now = (uintptr_t)sbrk(0)) == before))
        return;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), begin = before & ~(page - 1);
    if (now > before)
        hide((void *)begin, now - begin);
    __atomic_store_n(&hidden_end, now, __ATOMIC_RELEASE);
}

void *udpring_arena_new(void *context, size_t size)
{
    return map(size);
}

void udpring_arena_free(void *context, void *memory, size_t size)
{
    munmap(memory, size);
}
