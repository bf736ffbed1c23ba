/* Changes of the tables that packets ask for (changes.c). */
#ifndef UDPRING_TUNNEL_WORKER_CHANGES_H
#define UDPRING_TUNNEL_WORKER_CHANGES_H
#include "state.h"

/* Makes the change now if this is the only worker, else when all workers are stopped next. */
void plane_change(struct worker *worker, const struct change *change);
void plane_run_changes(struct worker *worker);
#endif
