/* The sockets of all workers. */
#include "sockets.h"

#include "handshakes.h"

int plane_open_sockets(struct udpring_plane *plane, int (*group)[2], int handshake_fd[2], uint16_t *port, uint32_t fwmark,
                       struct udpring_reason *why)
{
    bool splits = !*plane->sharing_reason.text;
    return udp_socket_group(group, plane->worker_count, handshake_fd, splits ? &handshakes_split : NULL, port, fwmark, why);
}

void plane_see_binding(struct udpring_plane *plane)
{
    for (int family = 0; family < 2; family++) {
        int bound = 0, fd = plane->workers[0].fd[family];
        socklen_t length = sizeof(bound);
        if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_BINDTOIFINDEX, &bound, &length) != 0)
            bound = 0;
        plane->bound_to[family] = (uint32_t)bound;
    }
}
