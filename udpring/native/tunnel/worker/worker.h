/* The worker (worker.c). */
#ifndef UDPRING_TUNNEL_WORKER_WORKER_H
#define UDPRING_TUNNEL_WORKER_WORKER_H
#include "state.h"

void *worker_main(void *worker);   /* of pthread_create */
#endif
