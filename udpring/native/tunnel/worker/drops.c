#include "../../base.h"

#include "../abi.h"

static const char *const names[] = {
#define NAME(symbol, name) [UDPRING_DROP_##symbol] = name,
    UDPRING_DROPS(NAME)
};
_Static_assert(UDPRING_DROP_COUNT <= UR_ARRAY_LENGTH(((struct udpring_plane_stats *)0)->drops), "each has a counter");

const char *udpring_drop_name(int32_t reason)
{
    return reason >= 0 && reason < UDPRING_DROP_COUNT ? names[reason] : NULL;
}
