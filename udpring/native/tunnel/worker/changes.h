/* What a packet may change in the tables (changes.c). */
#ifndef UDPRING_TUNNEL_WORKER_CHANGES_H
#define UDPRING_TUNNEL_WORKER_CHANGES_H
#include "state.h"

/* The change is made now if this is the only worker, else at the next moment when all stand. */
void plane_change(struct worker *worker, const struct change *change);
void plane_run_changes(struct worker *worker);
#endif
