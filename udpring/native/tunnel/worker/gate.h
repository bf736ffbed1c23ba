/* Stopping all workers while worker 0 changes the tables (gate.c). "Stopped" means: between two passes, and kept there. */
#ifndef UDPRING_TUNNEL_WORKER_GATE_H
#define UDPRING_TUNNEL_WORKER_GATE_H
#include "state.h"

void exclusive_enter(struct worker *worker);     /* a pass begins: waits while worker 0 has the tables */
void exclusive_leave(struct worker *worker);
void exclusive_begin(struct udpring_plane *plane);   /* worker 0, between passes: the others are stopped until exclusive_end() */
void exclusive_end(struct udpring_plane *plane);
#endif
