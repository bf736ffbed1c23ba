#include "level.h"

#include "../limits.h"

bool level_high(struct level *level, uint64_t now, uint64_t count, uint32_t a_second)
{
    uint64_t elapsed = now - level->window_ns;
    if (ur_likely(elapsed < MODERATION_WINDOW_NS && level->window_ns))
        return level->high;
    if (level->window_ns) {
        double rate = (double)(count - level->count) * (double)NS_PER_S / (double)elapsed;
        level->run = (rate >= a_second) != level->high ? level->run + 1 : 0;
        if (level->run >= MODERATION_RUN) {
            level->high = !level->high;
            level->run = 0;
        }
    }
    level->window_ns = now;
    level->count = count;
    return level->high;
}
