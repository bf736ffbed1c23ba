/* Commands: which port the sockets are bound to, and their mark. */
#include <unistd.h>

#include "plane.h"

int plane_open_sockets(struct udpring_plane *plane, int (*group)[2], int apart[2], uint16_t *port, uint32_t fwmark,
                       struct udpring_reason *why)
{
    bool splits = !*plane->sharing_reason.text;
    return udp_socket_group(group, plane->worker_count, apart, splits ? &handshakes_split : NULL, port, fwmark, why);
}

struct bind_arguments {
    uint16_t *port;
    uint32_t fwmark;
    struct udpring_reason *why;
    int group[WORKERS_MAX][2];
    int apart[2];
};

/* In a worker, because that is where the network namespace is that the plane was started in. */
static int run_open_group(struct worker *worker, void *argument)
{
    struct bind_arguments *bind = argument;
    return plane_open_sockets(worker->plane, bind->group, bind->apart, bind->port, bind->fwmark, bind->why);
}

static int run_adopt(struct worker *worker, void *argument)
{
    struct bind_arguments *bind = argument;
    static const int none[2] = {-1, -1};
    return worker_adopt(worker, bind->group[worker->number], worker->number ? none : bind->apart, bind->why);
}

static int run_bound(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct bind_arguments *bind = argument;
    __atomic_store_n(&plane->port, *bind->port, __ATOMIC_RELEASE);
    plane->fwmark = bind->fwmark;
    for (uint32_t slot = 0; slot < plane->peers_capacity; slot++)
        if (plane->peers[slot]) {
            memset(&plane->peers[slot]->source, 0, sizeof(plane->peers[slot]->source));
            plane->peers[slot]->interface_index = 0;
        }
    return 0;
}

int32_t udpring_plane_bind(struct udpring_plane *plane, uint16_t *port, uint32_t fwmark, struct udpring_reason *why)
{
    if (*port && *port == udpring_plane_port(plane))
        return udpring_plane_mark(plane, fwmark);   /* it is ours already, and cannot be bound twice */
    struct bind_arguments arguments = {.port = port, .fwmark = fwmark, .why = why};
    int result = worker_call(&plane->workers[0], run_open_group, &arguments);
    if (result < 0)
        return result;
    for (uint32_t i = 0; i < plane->worker_count; i++) {
        result = worker_call(&plane->workers[i], run_adopt, &arguments);
        if (result < 0) {
            while (++i < plane->worker_count)
                for (int family = 0; family < 2; family++)
                    if (arguments.group[i][family] >= 0)
                        close(arguments.group[i][family]);
            return result;
        }
    }
    return plane_call(plane, run_bound, &arguments);
}

static int run_mark(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    uint32_t *fwmark = argument;
    for (uint32_t i = 0; i < plane->worker_count; i++) {
        int result = udp_socket_mark(plane->workers[i].fd, *fwmark);
        if (result == 0)
            result = udp_socket_mark(plane->workers[i].handshakes.fd, *fwmark);
        if (result < 0)
            return result;
    }
    plane->fwmark = *fwmark;
    return 0;
}

int32_t udpring_plane_mark(struct udpring_plane *plane, uint32_t fwmark)
{
    return plane_call(plane, run_mark, &fwmark);
}
