/* The tiers: their names, and the requested one. */
#ifndef UDPRING_UDP_TIER_H
#define UDPRING_UDP_TIER_H
#include "../base.h"

#include "abi.h"

#define UDP_TIER_REASON_BYTES 640   /* the reasons of two tiers, with their names */

/* The tier to open: `asked`, or for AUTO the tier that UDPRING_TIER names. -EINVAL if that is not a tier. */
int udp_tier_wanted(uint32_t asked, struct udpring_reason *why) UR_MUST_CHECK;
#endif
