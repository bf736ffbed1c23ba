#include "tier.h"

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
