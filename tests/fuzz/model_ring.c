#include "model_ring.h"

#include <errno.h>
#include <string.h>

#include "udp/tier_choice.h"

uint32_t ring_thread = 1, ring_forks, ring_tiers;

uint64_t __wrap_ur_thread_number(void);
uint32_t __wrap_ur_fork_count(void);
int __wrap_udp_tier_choose(uint32_t asked, udp_tier_open *open, void *context, char reasons[UDP_TIER_REASON_BYTES],
                           struct udpring_reason *why);
int __real_udp_tier_choose(uint32_t asked, udp_tier_open *open, void *context, char reasons[UDP_TIER_REASON_BYTES],
                           struct udpring_reason *why);

uint64_t __wrap_ur_thread_number(void)
{
    return ring_thread;
}

uint32_t __wrap_ur_fork_count(void)
{
    return ring_forks;
}

/* Opens a tier that was named, otherwise the best that the harness allows. */
int __wrap_udp_tier_choose(uint32_t asked, udp_tier_open *open, void *context, char reasons[UDP_TIER_REASON_BYTES],
                           struct udpring_reason *why)
{
    if (asked != UDPRING_TIER_AUTO)
        return __real_udp_tier_choose(asked, open, context, reasons, why);
    *reasons = 0;
    int code = -ENOSYS;
    for (uint32_t tier = UDPRING_TIER_URING_MULTISHOT; tier <= UDPRING_TIER_MMSG; tier++) {
        code = ring_tiers >> tier & 1 ? open(context, tier, why) : ur_fail(why, -EPERM, "the harness says no");
        if (!code)
            break;
        strcpy(reasons, "there is one");
    }
    return code;
}
