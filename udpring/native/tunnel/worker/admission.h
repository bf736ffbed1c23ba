/* Which handshake messages reach the control loop (admission.c). */
#ifndef UDPRING_TUNNEL_WORKER_ADMISSION_H
#define UDPRING_TUNNEL_WORKER_ADMISSION_H
#include "state.h"

void plane_under_load(struct worker *worker);    /* from now on, for a second */
/* One token of `rate`, which is the worker's own. False: there is none, and the message is counted as flooded. */
bool admission_pay(struct worker *worker, struct rate *rate) UR_MUST_CHECK;
/* A handshake message of the right length. Work beyond look-ups costs a token of `rate`. */
void plane_post_handshake(struct worker *worker, const struct udpring_packet *packet, const uint8_t *message,
                          uint32_t length, struct rate *rate);
#endif
