/* The sockets of all workers (sockets.c). */
#ifndef UDPRING_TUNNEL_WORKER_SOCKETS_H
#define UDPRING_TUNNEL_WORKER_SOCKETS_H
#include "state.h"

/* For all workers, and for handshakes where the kernel can sort them out (else `handshake_fd` stays -1). */
int plane_open_sockets(struct udpring_plane *plane, int (*group)[2], int handshake_fd[2], uint16_t *port, uint32_t fwmark,
                       struct udpring_reason *why) UR_MUST_CHECK;
void plane_see_binding(struct udpring_plane *plane);   /* of worker 0's sockets */
#endif
