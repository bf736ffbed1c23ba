/* The tiers: their names, and which one is asked for. */
#ifndef UDPRING_UDP_TIER_H
#define UDPRING_UDP_TIER_H
#include "../base.h"

#include "abi.h"

#define UDP_TIER_REASON_BYTES 640   /* two tiers' reasons with their names */

/* The tier to open: `asked`, or for AUTO what UDPRING_TIER names. -EINVAL when either is no tier. */
int udp_tier_wanted(uint32_t asked, struct udpring_reason *why) UR_MUST_CHECK;
#endif
