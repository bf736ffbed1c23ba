/* Intel's Multi-Buffer Crypto for IPsec as both of its AEADs use it: one library, looked for at run time. */
#ifndef UDPRING_TUNNEL_CRYPTO_AEAD_IPSECMB_H
#define UDPRING_TUNNEL_CRYPTO_AEAD_IPSECMB_H
#ifdef UDPRING_IPSECMB
#include <intel-ipsec-mb.h>

#include "../../base.h"

/* Finds the library. Does nothing once that has worked. Called from load() alone, which is one thread at a time.
 * 0, or -ENOTSUP with the reason. */
int ipsecmb_library(struct udpring_reason *why) UR_MUST_CHECK;

/* A manager for this CPU. -ENOMEM, or -ENOTSUP when the library refuses this CPU or its own self-test failed. */
int ipsecmb_manager_new(IMB_MGR **manager, struct udpring_reason *why) UR_MUST_CHECK;
void ipsecmb_manager_free(IMB_MGR *manager);
#endif
#endif
