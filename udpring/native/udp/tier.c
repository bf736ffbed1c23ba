#include "tier.h"

#include <stdlib.h>

static const char *const names[] = {
#define NAME(symbol, name) [UDPRING_TIER_##symbol] = name,
    UDPRING_TIERS(NAME)
};

const char *udpring_tier_name(uint32_t tier)
{
    return tier < UR_ARRAY_LENGTH(names) ? names[tier] : "?";
}

int32_t udpring_tier_parse(const char *name)
{
    for (size_t tier = 0; name && tier < UR_ARRAY_LENGTH(names); tier++)
        if (!strcmp(name, names[tier]))
            return (int32_t)tier;
    return -EINVAL;
}

int udp_tier_wanted(uint32_t asked, struct udpring_reason *why)
{
    if (asked >= UR_ARRAY_LENGTH(names))
        return ur_fail(why, -EINVAL, "%u is not a tier", asked);
    if (asked != UDPRING_TIER_AUTO)
        return (int)asked;
    const char *forced = getenv("UDPRING_TIER");
    if (!forced || !*forced)
        return UDPRING_TIER_AUTO;
    int tier = udpring_tier_parse(forced);
    if (tier < 0)
        return ur_fail(why, -EINVAL, "UDPRING_TIER=%.32s is not a tier. Use uring-multishot, uring-pool, mmsg or auto", forced);
    return tier;
}
