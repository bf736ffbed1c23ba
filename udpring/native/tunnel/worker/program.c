/* The program's own packets, in place of a TUN device: the interface of packets/ports.h to Python. */
#include "command.h"

int32_t udpring_plane_packets_send(struct udpring_plane *plane, struct udpring_packets_out *out, int32_t wait)
{
    return plane->ports ? packet_ports_send(plane->ports, out, wait) : -EOPNOTSUPP;
}

int32_t udpring_plane_packets_receive(struct udpring_plane *plane, uint32_t max, int32_t wait, struct udpring_packets **batch)
{
    return plane->ports ? packet_ports_receive(plane->ports, max, wait, batch) : -EOPNOTSUPP;
}

int32_t udpring_plane_packets_room_fd(const struct udpring_plane *plane)
{
    return plane->ports ? plane->ports->room_fd : -EOPNOTSUPP;
}

int32_t udpring_plane_packets_fd(const struct udpring_plane *plane)
{
    return plane->ports ? plane->ports->received.fd : -EOPNOTSUPP;
}

static int run_mtu(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    for (uint32_t i = 0; i < plane->worker_count; i++)
        plane->workers[i].tun.mtu = *(const uint32_t *)argument;
    return 0;
}

int32_t udpring_plane_packets_mtu(struct udpring_plane *plane, uint32_t mtu)
{
    return plane->ports ? plane_call(plane, run_mtu, &mtu) : -EOPNOTSUPP;
}
