/* Commands: which port the sockets are bound to, and their mark. */
#include "command.h"
#include "paths.h"
#include "rings.h"
#include "sockets.h"

/* 1. Open sockets for all workers, and in each worker its rings. A failure leaves every worker with its old ones.
 * 2. Each worker switches to its new rings. */
struct bind_arguments {
    uint16_t *port;
    uint32_t fwmark;
    struct udpring_reason *why;
    struct worker_rings rings[WORKERS_MAX];
};

/* In a worker, because that is where the network namespace is that the plane was started in. */
static int run_open_group(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct bind_arguments *bind = argument;
    int group[WORKERS_MAX][2], handshake_fd[2];
    int result = plane_open_sockets(plane, group, handshake_fd, bind->port, bind->fwmark, bind->why);
    for (uint32_t i = 0; i < plane->worker_count; i++)
        bind->rings[i] = (struct worker_rings){.fd = {group[i][0], group[i][1]}, .handshakes.fd = {-1, -1}};
    memcpy(bind->rings[0].handshakes.fd, handshake_fd, sizeof(handshake_fd));
    return result;
}

static int run_open_rings(struct worker *worker, void *argument)
{
    struct bind_arguments *bind = argument;
    return worker_rings_open(worker, &bind->rings[worker->number], bind->why);
}

static int run_discard(struct worker *worker, void *argument)
{
    struct bind_arguments *bind = argument;
    worker_rings_discard(&bind->rings[worker->number]);
    return 0;
}

static int run_adopt(struct worker *worker, void *argument)
{
    struct bind_arguments *bind = argument;
    return worker_adopt(worker, &bind->rings[worker->number], bind->why);
}

static int run_bound(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct bind_arguments *bind = argument;
    __atomic_store_n(&plane->port, *bind->port, __ATOMIC_RELEASE);
    plane->fwmark = bind->fwmark;
    for (uint32_t slot = 0; slot < plane->peers_capacity; slot++)
        if (plane->peers[slot])
            peer_forget_source(plane, plane->peers[slot]);
    plane_see_binding(plane);
    routes_ask(&plane->routes, UDPRING_PEER_NONE);
    return 0;
}

int32_t udpring_plane_bind(struct udpring_plane *plane, uint16_t *port, uint32_t fwmark, struct udpring_reason *why)
{
    int result;
    if (*port && *port == plane_port(plane)) {   /* the node holds this port already. It cannot be bound twice */
        result = udpring_plane_mark(plane, fwmark);
        return result < 0 ? ur_fail(why, result, "fwmark %u: UDP socket refuses SO_MARK, which needs CAP_NET_ADMIN: %s", fwmark, strerror(-result))
                          : result;
    }
    struct bind_arguments arguments = {.port = port, .fwmark = fwmark, .why = why};
    result = worker_call(&plane->workers[0], run_open_group, &arguments);
    if (result < 0)
        return result;
    for (uint32_t i = 0; i < plane->worker_count && result == 0; i++)
        result = worker_call(&plane->workers[i], run_open_rings, &arguments);
    if (result < 0) {
        for (uint32_t i = 0; i < plane->worker_count; i++)
            worker_call(&plane->workers[i], run_discard, &arguments);
        return result;
    }
    for (uint32_t i = 0; i < plane->worker_count; i++) {
        int adopted = worker_call(&plane->workers[i], run_adopt, &arguments);
        result = result ? result : adopted;   /* that worker ends, and says so. The others go over like it */
    }
    plane_call(plane, run_bound, &arguments);
    return result;
}

static int mark_sockets(struct udpring_plane *plane, uint32_t fwmark)
{
    int result = 0;
    for (uint32_t i = 0; i < plane->worker_count; i++) {
        int data = udp_socket_mark(plane->workers[i].fd, fwmark);
        int handshakes = udp_socket_mark(plane->workers[i].handshakes.fd, fwmark);
        result = result ? result : data ? data : handshakes;
    }
    return result;
}

static int run_mark(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    uint32_t *fwmark = argument;
    int result = mark_sockets(plane, *fwmark);
    if (result < 0) {
        (void)mark_sockets(plane, plane->fwmark);   /* else some packets would take another route than the others */
        return result;
    }
    plane->fwmark = *fwmark;
    /* The routes may be others now: the kernel chooses sources until they have been looked up. */
    for (uint32_t slot = 0; slot < plane->peers_capacity; slot++)
        if (plane->peers[slot] && *plane->routes.why.text) {
            peer_forget_source(plane, plane->peers[slot]);   /* no look-up is possible: the next packet gives it again */
        } else if (plane->peers[slot]) {
            memset(&plane->peers[slot]->source, 0, sizeof(plane->peers[slot]->source));
            plane->peers[slot]->path_version++;
        }
    routes_ask(&plane->routes, UDPRING_PEER_NONE);
    return 0;
}

int32_t udpring_plane_mark(struct udpring_plane *plane, uint32_t fwmark)
{
    return plane_call(plane, run_mark, &fwmark);
}
