/* The thread that watches the kernel's routes for the plane (route_watch.c). */
#ifndef UDPRING_TUNNEL_WORKER_ROUTE_WATCH_H
#define UDPRING_TUNNEL_WORKER_ROUTE_WATCH_H
#include "state.h"

/* The thread that watches. Workers must run before it starts, and until after it stopped. */
int routes_start(struct udpring_plane *plane, struct udpring_reason *why) UR_MUST_CHECK;
void routes_stop(struct routes *routes);
#endif
