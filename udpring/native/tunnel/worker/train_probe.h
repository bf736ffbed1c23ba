/* Probes of a route that may lose trains while single datagrams pass (train_probe.c). */
#ifndef UDPRING_TUNNEL_WORKER_TRAIN_PROBE_H
#define UDPRING_TUNNEL_WORKER_TRAIN_PROBE_H
#include "state.h"

/* By any worker: an authentic keepalive of the peer came, with this counter. */
void train_probe_heard(struct worker *worker, struct peer *peer, struct keypair *keypair, uint64_t counter);
#endif
