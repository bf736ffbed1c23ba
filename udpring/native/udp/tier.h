/* Which tier to take: asked for, forced by the environment, or the best that works here. */
#ifndef UDPRING_UDP_TIER_H
#define UDPRING_UDP_TIER_H
#include "../base.h"
#include "abi.h"

#define UDP_TIER_REASON_BYTES 640   /* two tiers' reasons with their names */

/* The tier to open: `asked`, or for AUTO what UDPRING_TIER names. -EINVAL when either is no tier. */
int udp_tier_wanted(uint32_t asked, struct udpring_reason *why) UR_MUST_CHECK;

/* 0 when this tier has carried a datagram over loopback in this process (found out once, then remembered),
 * else its -errno and the reason. Any thread. */
int udp_tier_works(uint32_t tier, struct udpring_reason *why) UR_MUST_CHECK;

/* Appends "NAME: why; " to a list of reasons. */
void udp_tier_note(char reasons[UDP_TIER_REASON_BYTES], uint32_t tier, const struct udpring_reason *why);
#endif
