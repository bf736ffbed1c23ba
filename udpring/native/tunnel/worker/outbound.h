/* Out: TUN -> UDP (outbound.c). */
#ifndef UDPRING_TUNNEL_WORKER_OUTBOUND_H
#define UDPRING_TUNNEL_WORKER_OUTBOUND_H
#include "state.h"

int outbound_pass(struct worker *worker) UR_MUST_CHECK;   /* 0, or why the TUN device could not be read */
#endif
