/* When packets of a peer went and came (stamps.c). */
#ifndef UDPRING_TUNNEL_WORKER_STAMPS_H
#define UDPRING_TUNNEL_WORKER_STAMPS_H
#include "state.h"

/* A message of the peer is about to be sent, with or without success (kernel: wg_timers_any_authenticated_packet_sent). */
void peer_stamp_sent(struct worker *worker, struct peer *peer);
/* The kernel took so many bytes of its messages (kernel: tx_bytes, wg_timers_data_sent). */
void peer_stamp_taken(struct worker *worker, uint32_t id, uint32_t bytes, bool data, bool train);
void peer_stamp_received(struct worker *worker, struct peer *peer, uint32_t bytes);
void peer_stamp_data_received(struct worker *worker, struct peer *peer);
/* Posts one event if the control loop has suspended this peer's timers: a stamp that they depend on has changed. */
void peer_post_activity(struct worker *worker, struct peer *peer);
void plane_see_data(struct worker *worker);      /* at the end of a pass */
bool plane_data_flows(const struct worker *worker);
#endif
