#include "routes.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_arp.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef TUNGETDEVNETNS
#define TUNGETDEVNETNS _IO('T', 227)
#endif

#define ANSWER_BYTES 4096   /* an answer to one look-up has some hundred */

/* ---- opening ---- */

static int netlink_socket(struct routes *routes)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    struct sockaddr_nl any = {.nl_family = AF_NETLINK};
    if (fd >= 0 && bind(fd, (struct sockaddr *)&any, sizeof(any)) == 0)
        return fd;
    int error = errno;
    if (fd >= 0)
        close(fd);
    ur_fail(&routes->why, -error, "rtnetlink is denied: %s: allow AF_NETLINK", strerror(error));
    return -1;
}

static bool join_group(int fd, int group)
{
    return setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) == 0;
}

/* Without a group an old kernel lacks (next hops: 5.3) the others still serve. */
static void join_groups(int fd)
{
    static const int groups[] = {5 /* IPv4 addresses */, 7 /* IPv4 routes */, 8 /* IPv4 rules */,
                                 9 /* IPv6 addresses */, 11 /* IPv6 routes */, 19 /* IPv6 rules */, 32 /* next hops */};
    for (size_t i = 0; i < UR_ARRAY_LENGTH(groups); i++)
        (void)join_group(fd, groups[i]);
}

int routes_open(struct routes *routes, int tun_fd)
{
    struct stat space;
    routes->tun_fd = tun_fd;
    routes->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (routes->wake_fd < 0)
        return -errno;
    routes->lookup_fd = netlink_socket(routes);
    if (routes->lookup_fd < 0)
        return 0;
    routes->notice_fd = netlink_socket(routes);
    if (routes->notice_fd < 0) {
        close(routes->lookup_fd);
        routes->lookup_fd = -1;
        return 0;
    }
    routes->hears_links = join_group(routes->notice_fd, RTNLGRP_LINK);
    join_groups(routes->notice_fd);
    if (stat("/proc/thread-self/ns/net", &space) == 0) {
        routes->space_device = space.st_dev;
        routes->space_inode = space.st_ino;
    }
    routes_find_tunnel(routes);
    return 0;
}

void routes_close(struct routes *routes)
{
    int *fds[] = {&routes->lookup_fd, &routes->notice_fd, &routes->wake_fd};
    for (size_t i = 0; i < UR_ARRAY_LENGTH(fds); i++) {
        if (*fds[i] >= 0)
            close(*fds[i]);
        *fds[i] = -1;
    }
    free(routes->vrf_slaves);
    routes->vrf_slaves = NULL;
    routes->vrf_slaves_count = routes->vrf_slaves_capacity = 0;
}

/* Without the right to ask, the name decides: an interface of this name in this namespace counts as the device. */
static bool tunnel_is_here(const struct routes *routes)
{
    struct stat space;
    int there = ioctl(routes->tun_fd, TUNGETDEVNETNS);
    if (there < 0)
        return true;
    bool here = fstat(there, &space) != 0 || !routes->space_inode ||
                (space.st_dev == routes->space_device && space.st_ino == routes->space_inode);
    close(there);
    return here;
}

void routes_find_tunnel(struct routes *routes)
{
    struct ifreq request = {0}, index = {0};
    uint32_t tunnel = 0;
    if (routes->lookup_fd >= 0 && ioctl(routes->tun_fd, TUNGETIFF, &request) == 0 && tunnel_is_here(routes)) {
        memcpy(index.ifr_name, request.ifr_name, IFNAMSIZ);
        if (ioctl(routes->lookup_fd, SIOCGIFINDEX, &index) == 0)
            tunnel = (uint32_t)index.ifr_ifindex;
    }
    __atomic_store_n(&routes->tunnel, tunnel, __ATOMIC_RELAXED);
}

/* ---- which VRF an interface belongs to ---- */

/* Where it is, or would be. */
static uint32_t slave_position(const struct routes *routes, uint32_t interface_index)
{
    uint32_t low = 0, high = routes->vrf_slaves_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (routes->vrf_slaves[middle].interface_index < interface_index)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static uint32_t vrf_of(const struct routes *routes, uint32_t interface_index)
{
    if (ur_likely(!routes->vrf_slaves_count))
        return 0;
    uint32_t at = slave_position(routes, interface_index);
    bool found = at < routes->vrf_slaves_count && routes->vrf_slaves[at].interface_index == interface_index;
    return found ? routes->vrf_slaves[at].vrf : 0;
}

bool routes_link_changes(const struct routes *routes, const struct link_note *note)
{
    return vrf_of(routes, note->interface_index) != note->vrf;
}

void routes_note_link(struct routes *routes, const struct link_note *note)
{
    if (!routes_link_changes(routes, note))
        return;
    uint32_t at = slave_position(routes, note->interface_index), behind = routes->vrf_slaves_count - at;
    bool known = behind && routes->vrf_slaves[at].interface_index == note->interface_index;
    if (known && note->vrf) {
        routes->vrf_slaves[at].vrf = note->vrf;
    } else if (known) {
        struct link_note *place = &routes->vrf_slaves[at];
        memmove(place, place + 1, (behind - 1) * sizeof(*place));
        routes->vrf_slaves_count--;
    } else {
        if (routes->vrf_slaves_count == routes->vrf_slaves_capacity) {
            uint32_t capacity = routes->vrf_slaves_capacity ? routes->vrf_slaves_capacity * 2 : 8;
            struct link_note *more = capacity > VRF_SLAVES_MAX ? NULL
                                                                      : realloc(routes->vrf_slaves, capacity * sizeof(*more));
            if (!more)
                return;   /* its answers go by the main table */
            routes->vrf_slaves = more;
            routes->vrf_slaves_capacity = capacity;
        }
        struct link_note *place = &routes->vrf_slaves[at];
        memmove(place + 1, place, behind * sizeof(*place));
        *place = *note;
        routes->vrf_slaves_count++;
    }
}

static bool is_link_local(const struct udpring_address *address)
{
    return address->family == AF_INET6 && address->ip[0] == 0xfe && (address->ip[1] & 0xc0) == 0x80;
}

uint32_t routes_reply_interface(const struct routes *routes, const struct udpring_address *to, const struct udpring_address *from,
                                uint32_t interface_index)
{
    if (is_link_local(to) || is_link_local(from))
        return interface_index;
    return vrf_of(routes, interface_index);
}

/* ---- look-ups ---- */

/* The kernel answers before sendto() returns, so nothing here waits. With the lock held. */
static int ask_kernel(struct routes *routes, const struct udpring_route_query *query, struct udpring_route_answer *answer)
{
    uint8_t request[NETLINK_REQUEST_BYTES], reply[ANSWER_BYTES];
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    uint32_t sequence = ++routes->sequence;
    size_t length = netlink_route_request(request, query, sequence);
    __atomic_fetch_add(&routes->lookups, 1, __ATOMIC_RELAXED);
    if (sendto(routes->lookup_fd, request, length, 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
        return errno == EAGAIN || errno == EINTR ? -ENODATA : -errno;
    for (unsigned i = 0; i < ROUTES_STALE_MAX; i++) {   /* skips answers to earlier requests */
        struct sockaddr_nl from = {0};
        socklen_t from_length = sizeof(from);
        ssize_t got = recvfrom(routes->lookup_fd, reply, sizeof(reply), 0, (struct sockaddr *)&from, &from_length);
        if (got < 0)
            return -ENODATA;
        if (from.nl_pid)
            continue;   /* some program's, not the kernel's */
        int result = netlink_route_answer(reply, (size_t)got, sequence, answer);
        if (result != -ENODATA)
            return result;
    }
    return -ENODATA;
}

/* Whether the kernel has said something about the route, and not about the question. */
static bool is_about_route(int result)
{
    return result != -ENODATA && result != -EPROTO && result != -ENOMEM && result != -ENOBUFS && result != -EPERM &&
           result != -EOPNOTSUPP && result != -EBADF && result != -ECONNREFUSED;
}

/* TUN and WireGuard devices have no link layer. Asked of the socket's namespace, as the routes are. */
static bool ask_tunnel(const struct routes *routes, uint32_t interface_index)
{
    struct ifreq request = {.ifr_ifindex = (int)interface_index};
    return ioctl(routes->lookup_fd, SIOCGIFNAME, &request) == 0 && ioctl(routes->lookup_fd, SIOCGIFHWADDR, &request) == 0 &&
           request.ifr_hwaddr.sa_family == ARPHRD_NONE;
}

/* Asked once a generation: all handshakes of a server leave by few interfaces. */
static bool is_tunnel(struct routes *routes, uint32_t interface_index)
{
    struct known_interface *known = &routes->known[interface_index % ROUTES_KNOWN];
    if (known->interface_index != interface_index || !routes->hears_links)
        *known = (struct known_interface){interface_index, ask_tunnel(routes, interface_index)};
    return known->tunnel;
}

void routes_stop_listening(struct routes *routes)
{
    pthread_mutex_lock(&routes->lock);
    routes->hears_links = false;
    pthread_mutex_unlock(&routes->lock);
}

void routes_note_change(struct routes *routes)
{
    pthread_mutex_lock(&routes->lock);
    memset(routes->known, 0, sizeof(routes->known));
    __atomic_store_n(&routes->generation, routes->generation + 1, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&routes->lock);
}

static enum way way_of(struct routes *routes, uint32_t interface_index)
{
    if (!interface_index || routes->no_interface)
        return WAY_OUT;
    if (interface_index == __atomic_load_n(&routes->tunnel, __ATOMIC_RELAXED))
        return WAY_OWN_TUNNEL;
    return is_tunnel(routes, interface_index) ? WAY_OTHER_TUNNEL : WAY_OUT;
}

static void use_unchecked(const struct path_query *query, struct path *path)
{
    path->source = query->heard_on;
}

static void failed(struct routes *routes, const struct path_query *query, struct path *path)
{
    __atomic_fetch_add(&routes->failures, 1, __ATOMIC_RELAXED);
    use_unchecked(query, path);
}

static void choose(struct routes *routes, const struct path_query *query, struct path *path)
{
    struct udpring_route_query ask = {.to = query->endpoint, .from = query->heard_on, .mark = query->mark, .from_port = query->port};
    struct udpring_route_answer answer = {0};
    int result = -ENETUNREACH;
    if (is_link_local(&query->endpoint)) {   /* its scope says it all */
        use_unchecked(query, path);
        path->leaves_by = query->endpoint.scope_id;
        path->way = way_of(routes, path->leaves_by);
        return;
    }
    ask.interface_index = path->interface_index ? path->interface_index : query->bound_to;
    if (ask.from.family) {
        result = ask_kernel(routes, &ask, &answer);
        if (result < 0 && !is_about_route(result)) {   /* that is no reason to leave from elsewhere */
            failed(routes, query, path);
            return;
        }
        if (result == 0 && (answer.local || !query->heard_by || answer.interface_index == query->heard_by))
            path->source = query->heard_on;
    }
    if (!path->source.family) {
        if (is_link_local(&query->heard_on)) {
            path->interface_index = 0;
            ask.interface_index = query->bound_to;
        }
        ask.from = (struct udpring_address){0};
        result = ask_kernel(routes, &ask, &answer);
    }
    if (result < 0 && !is_about_route(result)) {
        failed(routes, query, path);
        return;
    }
    path->leaves_by = result < 0 ? 0 : answer.interface_index;
    path->way = answer.local ? WAY_OUT : way_of(routes, path->leaves_by);
}

void routes_choose(struct routes *routes, const struct path_query *query, struct path *path)
{
    *path = (struct path){.generation = __atomic_load_n(&routes->generation, __ATOMIC_ACQUIRE)};
    if (!query->endpoint.family)
        return;
    if (routes->lookup_fd < 0) {
        use_unchecked(query, path);
        path->interface_index = is_link_local(&query->endpoint) ? query->heard_by : 0;
        return;
    }
    pthread_mutex_lock(&routes->links_lock);
    path->interface_index = routes_reply_interface(routes, &query->endpoint, &query->heard_on, query->heard_by);
    pthread_mutex_unlock(&routes->links_lock);
    pthread_mutex_lock(&routes->lock);
    choose(routes, query, path);
    pthread_mutex_unlock(&routes->lock);
}

void routes_ask(struct routes *routes, uint32_t peer)
{
    uint64_t one = 1;
    pthread_mutex_lock(&routes->asked_lock);
    if (peer == UDPRING_PEER_NONE || routes->asked_count == ROUTES_ASKED_MAX)
        routes->asked_all = true;
    else
        routes->asked[routes->asked_count++] = peer;
    pthread_mutex_unlock(&routes->asked_lock);
    ssize_t written;
    do
        written = write(routes->wake_fd, &one, sizeof(one));
    while (written < 0 && errno == EINTR);   /* EAGAIN: it is raised already */
}
