/* In: UDP -> TUN (inbound.c). */
#ifndef UDPRING_TUNNEL_WORKER_INBOUND_H
#define UDPRING_TUNNEL_WORKER_INBOUND_H
#include "state.h"

/* Handshake messages in it are paid for from `rate`. */
void inbound_packet(struct worker *worker, struct udpring_packet *packet, struct rate *rate);
/* Delivers what still waits for more of its flow. Afterwards the packets' memory is the caller's again. */
void inbound_flush(struct worker *worker);
#endif
