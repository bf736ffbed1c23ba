/* How any thread has a worker do something between two passes (command.c). */
#ifndef UDPRING_TUNNEL_WORKER_COMMAND_H
#define UDPRING_TUNNEL_WORKER_COMMAND_H
#include "state.h"

int worker_call(struct worker *worker, int (*run)(struct worker *, void *), void *argument);
/* On worker 0, with all workers stopped. */
int plane_call(struct udpring_plane *plane, int (*run)(struct worker *, void *), void *argument);
void worker_run_commands(struct worker *worker);
void worker_wake(struct worker *worker);
#endif
