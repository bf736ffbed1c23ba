/* A race on purpose, of two threads: scripts/tsan.sh sees by it that the thread sanitiser is at work. */
#include <sched.h>
#include <stdint.h>

static uint64_t raced;
static uint32_t arrived;

uint64_t race(uint32_t rounds)
{
    /* Both are here before either begins. Relaxed, because anything else would order their accesses. */
    __atomic_fetch_add(&arrived, 1, __ATOMIC_RELAXED);
    while (__atomic_load_n(&arrived, __ATOMIC_RELAXED) < 2)
        sched_yield();
    while (rounds--)
        raced++;
    return raced;
}
