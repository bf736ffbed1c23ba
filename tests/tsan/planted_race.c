/* A race on purpose: scripts/tsan.sh sees by it that the thread sanitiser is at work. */
#include <stdint.h>

static uint64_t raced;

uint64_t race(uint32_t rounds)
{
    while (rounds--)
        raced++;
    return raced;
}
