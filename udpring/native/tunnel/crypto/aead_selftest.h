/* The known-answer test that each AEAD has to pass before it may touch a packet. */
#ifndef UDPRING_TUNNEL_CRYPTO_AEAD_SELFTEST_H
#define UDPRING_TUNNEL_CRYPTO_AEAD_SELFTEST_H
#include "aead.h"

/* The cipher's published vector (RFC 8439 2.8.2, or McGrew and Viega's test case 16), sealed and opened. Then WireGuard-shaped
 * packets of lengths around the block sizes, as one burst, one by one, and tampered with. The implementation must be loaded. 0, or -EBADMSG with what was wrong. */
int aead_selftest(const struct aead_impl *impl, struct udpring_reason *why) UR_MUST_CHECK;
#endif
