/* Chooses a tier and opens it, for both the receive and the send side. */
#ifndef UDPRING_UDP_TIER_CHOICE_H
#define UDPRING_UDP_TIER_CHOICE_H
#include "tier.h"

/* Opens one tier. 0 or -errno. */
typedef int udp_tier_open(void *context, uint32_t tier, struct udpring_reason *why);

/* Opens the requested tier, or for UDPRING_TIER_AUTO the best that works here. A tier works if it has
 * carried a datagram over loopback in this process, which is tried once. `reasons`: why no better tier was taken, empty if the
 * best was. Returns 0 or the -errno of the last tier tried. Any thread. */
int udp_tier_choose(uint32_t asked, udp_tier_open *open, void *context, char reasons[UDP_TIER_REASON_BYTES],
                    struct udpring_reason *why) UR_MUST_CHECK;
#endif
