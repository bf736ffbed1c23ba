/* Who may read and change the tables when (gate.c). */
#ifndef UDPRING_TUNNEL_WORKER_GATE_H
#define UDPRING_TUNNEL_WORKER_GATE_H
#include "state.h"

void exclusive_enter(struct worker *worker);     /* a pass begins: waits while worker 0 has the tables */
void exclusive_leave(struct worker *worker);
void exclusive_begin(struct udpring_plane *plane);   /* worker 0, between passes: the others stand until ... */
void exclusive_end(struct udpring_plane *plane);
#endif
