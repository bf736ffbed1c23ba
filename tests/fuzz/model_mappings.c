#include "model_mappings.h"

#include <sys/mman.h>

enum { MAPPINGS = 128, PAGE = 4096, FEW = 16 * PAGE, POISONED = 64 };

/* Owner: this file; while in use, the core. Never unmapped. */
struct mapping {
    uint8_t *memory;
    size_t bytes;
    bool used;
};

bool memory_kept;
static struct mapping mappings[MAPPINGS];
static uint32_t mapping_count;

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POISON 1
#endif
#endif
#ifdef POISON
void __asan_poison_memory_region(void const volatile *address, size_t size);
void __asan_unpoison_memory_region(void const volatile *address, size_t size);
#endif

/* Poisons the first bytes of each page, or of each 64 KiB of a large mapping. That suffices to detect a use after unmapping. */
static void set_poison(const struct mapping *mapping, bool poisoned)
{
#ifdef POISON
    for (size_t at = 0; at < mapping->bytes; at += mapping->bytes > FEW ? FEW : PAGE) {
        size_t bytes = mapping->bytes - at < POISONED ? mapping->bytes - at : POISONED;
        if (poisoned)
            __asan_poison_memory_region(mapping->memory + at, bytes);
        else
            __asan_unpoison_memory_region(mapping->memory + at, bytes);
    }
#endif
}

void *__real_mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *address, size_t bytes);
int __real_madvise(void *address, size_t bytes, int advice);
int __wrap_munmap(void *address, size_t bytes);
int __wrap_madvise(void *address, size_t bytes, int advice);

void *memory_map(size_t bytes)
{
    struct mapping *found = NULL;
    if (!memory_kept)
        return NULL;
    for (uint32_t i = 0; i < mapping_count && !found; i++)
        if (!mappings[i].used && mappings[i].bytes == bytes)
            found = &mappings[i];
    if (!found && mapping_count < MAPPINGS) {
        found = &mappings[mapping_count];
        found->bytes = bytes;
        found->memory = __real_mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (found->memory == MAP_FAILED)
            return NULL;
        mapping_count++;
    }
    if (!found)
        return NULL;
    found->used = true;
    set_poison(found, false);
    return found->memory;
}

int __wrap_munmap(void *address, size_t bytes)
{
    for (uint32_t i = 0; i < mapping_count; i++) {
        struct mapping *mapping = &mappings[i];
        if (mapping->memory != address)
            continue;
        CLAIM(mapping->used && bytes <= mapping->bytes, "%zu bytes are unmapped, not %zu, or again", bytes, mapping->bytes);
        mapping->used = false;
        set_poison(mapping, true);
        return 0;
    }
    return __real_munmap(address, bytes);
}

int __wrap_madvise(void *address, size_t bytes, int advice)
{
    return memory_kept ? 0 : __real_madvise(address, bytes, advice);
}
