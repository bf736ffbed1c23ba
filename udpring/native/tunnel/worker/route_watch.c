/* The thread that watches the kernel's routes for the plane (routes.h).
 *
 * 1. wait for rtnetlink, or for a request of a worker
 * 2. read all notices. One about routes only says that something changed. One about a link says whether it is in a VRF
 * 3. look up the requested peers, or all of them. Worker 0 copies a batch of peers between two passes. This thread looks it
 *    up, and gives the answers back with the next batch
 * 4. pause for nine times the CPU time of that, at least 2 ms and at most half a second
 * So a single change is followed at once, and many changes cost at most a tenth of a CPU for most peer tables. Time spent waiting for a
 * CPU or a lock does not count: on a busy machine it would make the next change wait for half a second more. */
#include "route_watch.h"

#include <linux/netlink.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "command.h"
#include "paths.h"

#define NOTICE_BYTES 32768
#define NS_PER_MS 1000000ull

/* One peer's look-up. */
struct check {
    uint32_t peer, version;
    struct path_query query;
    struct path path;
};

/* A batch between this thread and worker 0. Owner: the watch thread, on its stack. Nothing to free. */
struct batch {
    struct check checks[ROUTES_BATCH];
    uint32_t count;                    /* peers looked up, then peers to look up next */
    uint32_t asked[ROUTES_ASKED_MAX];
    uint32_t asked_count, asked_next;
    bool sweep;                        /* all peers, from `slot` on. Else the requested ones */
    uint32_t slot;
    bool more;
};

/* ---- on worker 0, with all workers stopped ---- */

static void copy_peer(struct udpring_plane *plane, struct batch *batch, struct peer *peer)
{
    peer->check_pending = false;
    if (!peer->endpoint.family)
        return;
    struct check *check = &batch->checks[batch->count++];
    check->peer = peer->id;
    check->version = peer->path_version;
    path_query_of(plane, peer->endpoint.family, &check->query);
    check->query.endpoint = peer->endpoint;
    check->query.heard_on = peer->heard_on;
    check->query.heard_by = peer->heard_by;
}

static int run_exchange(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct batch *batch = argument;
    for (uint32_t i = 0; i < batch->count; i++) {
        const struct check *check = &batch->checks[i];
        struct peer *peer = plane_peer(plane, check->peer);
        if (peer && peer->path_version == check->version)   /* else the peer changed since, which requested a new look-up */
            peer_take_path(worker, peer, &check->path, true);
    }
    batch->count = 0;
    uint32_t looked_at = 0;
    while (batch->sweep && batch->slot < plane->peers_capacity && batch->count < ROUTES_BATCH && looked_at++ < ROUTES_SLOTS_A_PASS) {
        struct peer *peer = plane->peers[batch->slot++];
        if (peer)
            copy_peer(plane, batch, peer);
    }
    while (!batch->sweep && batch->asked_next < batch->asked_count && batch->count < ROUTES_BATCH) {
        struct peer *peer = plane_peer(plane, batch->asked[batch->asked_next++]);
        if (peer)
            copy_peer(plane, batch, peer);
    }
    batch->more = batch->count || (batch->sweep ? batch->slot < plane->peers_capacity : batch->asked_next < batch->asked_count);
    return 0;
}

static int run_note_link(struct worker *worker, void *argument)
{
    struct routes *routes = &worker->plane->routes;
    pthread_mutex_lock(&routes->links_lock);
    routes_note_link(routes, argument);
    pthread_mutex_unlock(&routes->links_lock);
    return 0;
}

/* ---- on the watch thread ---- */

static bool stopping(const struct routes *routes)
{
    return __atomic_load_n(&routes->stop, __ATOMIC_ACQUIRE);
}

static void see_link(void *context, const struct link_note *note)
{
    struct udpring_plane *plane = context;
    struct link_note copy = *note;
    if (routes_link_changes(&plane->routes, note) && !stopping(&plane->routes))
        plane_call(plane, run_note_link, &copy);
}

/* All links, at the start and after notices were lost. */
static void read_links(struct udpring_plane *plane, uint8_t *buffer)
{
    struct routes *routes = &plane->routes;
    uint8_t request[NETLINK_REQUEST_BYTES];
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);   /* this thread is in the plane's namespace */
    if (fd < 0)
        return;
    size_t length = netlink_links_request(request, 1);
    int result = sendto(fd, request, length, 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0 ? -errno : 0;
    while (result == 0 && !stopping(routes)) {
        ssize_t got = recv(fd, buffer, NOTICE_BYTES, 0);
        result = got < 0 ? -errno : netlink_links(buffer, (size_t)got, 1, see_link, plane);
    }
    close(fd);
}

/* Takes all notices. True: something changed. */
static bool take_notices(struct udpring_plane *plane, uint8_t *buffer)
{
    struct routes *routes = &plane->routes;
    bool changed = false;
    for (unsigned i = 0; i < ROUTES_NOTICES_A_ROUND && !stopping(routes); i++) {
        ssize_t got = recv(routes->notice_fd, buffer, NOTICE_BYTES, MSG_DONTWAIT);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            break;
        bool lost = got < 0, again = !lost || errno == ENOBUFS;
        changed = true;
        __atomic_fetch_add(&routes->notices, 1, __ATOMIC_RELAXED);
        if (lost || netlink_links(buffer, (size_t)got, 0, see_link, plane) < 0)
            read_links(plane, buffer);   /* some were lost */
        if (!again)
            break;   /* tried again after the pause */
    }
    return changed;
}

static void look_up(struct udpring_plane *plane, struct batch *batch)
{
    if (batch->sweep)
        __atomic_fetch_add(&plane->routes.sweeps, 1, __ATOMIC_RELAXED);
    do {
        plane_call(plane, run_exchange, batch);
        for (uint32_t i = 0; i < batch->count; i++)
            routes_choose(&plane->routes, &batch->checks[i].query, &batch->checks[i].path);
    } while (batch->more && !stopping(&plane->routes));
}

static void take_asked(struct routes *routes, struct batch *batch)
{
    pthread_mutex_lock(&routes->asked_lock);
    batch->asked_count = routes->asked_count;
    memcpy(batch->asked, routes->asked, routes->asked_count * sizeof(routes->asked[0]));
    batch->sweep = routes->asked_all;
    routes->asked_count = 0;
    routes->asked_all = false;
    pthread_mutex_unlock(&routes->asked_lock);
}

static void clear_wake(const struct routes *routes)
{
    uint64_t count;
    ssize_t got;
    do
        got = read(routes->wake_fd, &count, sizeof(count));
    while (got < 0 && errno == EINTR);
}

/* Short of memory for a poll: look all the same, a little later. */
static void pause_after(int polled)
{
    struct timespec pause = {.tv_nsec = SHORTAGE_PAUSE_NS};
    if (ur_unlikely(polled < 0))
        clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
}

/* Only a stop ends the pause early. Requests that come during it are kept. */
static void pause_between_look_ups(const struct routes *routes, uint64_t cpu_ns)
{
    uint64_t ns = cpu_ns * ROUTES_PAUSE;
    ns = ns < ROUTES_PAUSE_MIN_NS ? ROUTES_PAUSE_MIN_NS : ns > ROUTES_PAUSE_MAX_NS ? ROUTES_PAUSE_MAX_NS : ns;
    uint64_t until = ur_clock_ns(CLOCK_MONOTONIC) + ns;
    for (uint64_t now; !stopping(routes) && (now = ur_clock_ns(CLOCK_MONOTONIC)) < until;) {
        struct pollfd wake = {.fd = routes->wake_fd, .events = POLLIN};
        int ready = poll(&wake, 1, (int)((until - now) / NS_PER_MS) + 1);
        if (ready > 0)
            clear_wake(routes);
        pause_after(ready);
    }
}

static void *watch_main(void *argument)
{
    struct udpring_plane *plane = argument;
    struct routes *routes = &plane->routes;
    prctl(PR_SET_NAME, "udpring-routes");
    struct batch *batch = calloc(1, sizeof(*batch) + NOTICE_BYTES);
    if (!batch) {
        routes_stop_listening(routes);
        return NULL;   /* peers keep the paths of their handshakes */
    }
    uint8_t *buffer = (uint8_t *)(batch + 1);
    read_links(plane, buffer);
    while (!stopping(routes)) {
        uint64_t began = ur_clock_ns(CLOCK_THREAD_CPUTIME_ID);
        bool changed = take_notices(plane, buffer);
        take_asked(routes, batch);
        if (changed) {
            batch->sweep = true;
            routes_note_change(routes);
            routes_find_tunnel(routes);
        }
        if (batch->sweep || batch->asked_count) {
            batch->count = batch->asked_next = batch->slot = 0;
            look_up(plane, batch);
            pause_between_look_ups(routes, ur_clock_ns(CLOCK_THREAD_CPUTIME_ID) - began);
            continue;
        }
        struct pollfd fds[2] = {{.fd = routes->wake_fd, .events = POLLIN}, {.fd = routes->notice_fd, .events = POLLIN}};
        int ready = poll(fds, 2, -1);
        if (ready > 0 && fds[0].revents)
            clear_wake(routes);
        pause_after(ready);
    }
    free(batch);
    return NULL;
}

int routes_start(struct udpring_plane *plane, struct udpring_reason *why)
{
    struct routes *routes = &plane->routes;
    if (routes->lookup_fd < 0)
        return 0;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int result = -pthread_create(&routes->thread, NULL, watch_main, plane);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (result < 0)
        return ur_fail(why, result, "starting the thread that watches routes: %s", strerror(-result));
    routes->running = true;
    return 0;
}

void routes_stop(struct routes *routes)
{
    if (!routes->running)
        return;
    __atomic_store_n(&routes->stop, true, __ATOMIC_RELEASE);
    routes_ask(routes, UDPRING_PEER_NONE);
    pthread_join(routes->thread, NULL);
    routes->running = false;
}
