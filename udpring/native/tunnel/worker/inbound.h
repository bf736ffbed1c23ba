/* In: UDP -> TUN (inbound.c). */
#ifndef UDPRING_TUNNEL_WORKER_INBOUND_H
#define UDPRING_TUNNEL_WORKER_INBOUND_H
#include "spread.h"

/* Handshake messages in it are paid for from `rate`. */
void inbound_packet(struct worker *worker, struct udpring_packet *packet, struct rate *rate);
/* True: the train is a job now. Call inbound_opened() when the job is done. False: call inbound_packet(). */
bool inbound_spread(struct worker *worker, const struct udpring_packet *packet);
/* As inbound_packet(), after the job. */
void inbound_opened(struct worker *worker, struct udpring_packet *packet, const struct spread_job *job, struct rate *rate);
/* Delivers what still waits for more of its flow. Afterwards the packets' memory is the caller's again. */
void inbound_flush(struct worker *worker);
#endif
