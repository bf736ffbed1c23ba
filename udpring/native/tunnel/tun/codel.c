#include "codel.h"

/* Rounded down. */
static uint64_t square_root(uint64_t value)
{
    uint64_t root = 0;
    for (uint64_t bit = 1ull << 31; bit; bit >>= 1)
        if ((root + bit) * (root + bit) <= value)
            root += bit;
    return root;
}

/* time + CODEL_INTERVAL_NS / sqrt(count), with 16 binary places of the root. */
static uint64_t control_law(uint64_t time, uint32_t count)
{
    return time + (CODEL_INTERVAL_NS << 16) / square_root((uint64_t)count << 32);
}

bool codel_may_drop(struct codel *codel, uint64_t now, uint64_t sojourn_ns, bool few)
{
    if (ur_likely(sojourn_ns < CODEL_TARGET_NS || few)) {
        codel->first_above_ns = 0;
        return false;
    }
    if (!codel->first_above_ns)
        codel->first_above_ns = now + CODEL_INTERVAL_NS;
    return now >= codel->first_above_ns;
}

void codel_empty(struct codel *codel)
{
    codel->first_above_ns = 0;
    codel->dropping = false;
}

bool codel_begins(struct codel *codel, uint64_t now, bool may_drop)
{
    if (ur_likely(!may_drop))
        return false;
    /* Soon after the last series the rate begins where that one ended. */
    uint32_t delta = codel->count - codel->last_count;
    codel->count = delta > 1 && now - codel->drop_next_ns < 16 * CODEL_INTERVAL_NS ? delta : 1;
    codel->dropping = true;
    codel->drop_next_ns = control_law(now, codel->count);
    codel->last_count = codel->count;
    return true;
}

bool codel_goes_on(struct codel *codel, uint64_t now, bool may_drop)
{
    if (!may_drop)
        codel->dropping = false;
    if (!may_drop || now < codel->drop_next_ns)
        return false;
    codel->count++;
    return true;
}

void codel_dropped(struct codel *codel)
{
    codel->drop_next_ns = control_law(codel->drop_next_ns, codel->count);
}
