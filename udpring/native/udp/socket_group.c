/* The sockets of a tunnel node, all on one port: a pair (IPv4, IPv6) for each worker, and one pair for messages other than
 * data.
 *
 * 1. Bind the first pair without SO_REUSEPORT, so that bind(2) fails if another program has the port.
 * 2. Set SO_REUSEPORT on it and bind the others to the same port. Each family forms a group, in the order of binding.
 * 3. The group's program (socket_split.c) chooses the socket for each datagram. A filter discards datagrams of no known
 *    kind. */
#include <stdio.h>
#include <unistd.h>

#include "socket.h"
#include "socket_split.h"

#define RECEIVE_BUFFER_BYTES (7 << 20)   /* as in wireguard-go: room for a burst of 100 full GRO trains */
/* Some five full trains (the kernel doubles it). What does not fit waits in the queues of the flows, where CoDel sees it. */
#define SEND_BUFFER_BYTES (256 << 10)
#define PORT_TRIES 100           /* retries when the port that the kernel chose is taken in the other family */

/* The FORCE variants exceed net.core.*mem_max but need CAP_NET_ADMIN. A smaller buffer is not an error. */
static void size_buffers(int fd)
{
    if (udp_socket_set(fd, SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES))
        (void)udp_socket_set(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER_BYTES);
    if (udp_socket_set(fd, SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER_BYTES))
        (void)udp_socket_set(fd, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER_BYTES);
}

/* Opens one socket of a pair and sets its options. Does not bind it. */
static int open_one(int family, uint32_t fwmark, struct udpring_reason *why)
{
    const char *name = family == AF_INET ? "IPv4" : "IPv6";
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_UDP);
    if (fd < 0)
        return ur_fail(why, -errno, "no %s UDP socket: %s", name, strerror(errno));
    const char *option = "pktinfo and TOS";
    int code = udp_socket_prepare(fd, UDP_SOCKET_LOCAL | UDP_SOCKET_TOS, why);
    if (!code && family == AF_INET6) {
        option = "IPV6_V6ONLY";
        code = udp_socket_set(fd, SOL_IPV6, IPV6_V6ONLY, 1);
    }
    /* No path MTU discovery: the outer packet may be fragmented, as WireGuard's is. */
    if (!code) {
        option = "MTU_DISCOVER";
        code = family == AF_INET ? udp_socket_set(fd, SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
                                 : udp_socket_set(fd, SOL_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT);
    }
    if (!code && fwmark) {
        option = "SO_MARK, which needs CAP_NET_ADMIN";
        code = udp_socket_set(fd, SOL_SOCKET, SO_MARK, (int)fwmark);
    }
    if (code) {
        close(fd);
        return ur_fail(why, code, "%s UDP socket refuses %s: %s", name, option, strerror(-code));
    }
    size_buffers(fd);
    return fd;
}

static int bind_one(int fd, int family, uint16_t *port)
{
    struct sockaddr_storage address;
    struct udpring_address any = {.family = (uint16_t)family, .port = *port};
    socklen_t length = udp_address_to_sockaddr(&any, family, &address);
    if (bind(fd, (struct sockaddr *)&address, length))
        return -errno;
    length = sizeof(address);
    if (getsockname(fd, (struct sockaddr *)&address, &length) || !udp_address_from_sockaddr(&address, length, &any))
        return -errno;
    *port = any.port;
    return 0;
}

/* Tries once to bind both families to one port. If *port was 0, another attempt may succeed after -EADDRINUSE. */
static int open_pair(int fd[2], uint16_t *port, uint32_t fwmark, bool shared, struct udpring_reason *why)
{
    static const int families[2] = {AF_INET, AF_INET6};
    uint16_t chosen = *port;
    int code = 0;
    fd[0] = fd[1] = -1;
    for (int i = 0; i < 2; i++) {
        int opened = open_one(families[i], fwmark, why);
        if (opened == -EAFNOSUPPORT)
            continue;
        if (opened < 0) {
            code = opened;
            break;
        }
        fd[i] = opened;
        if (shared && (code = udp_socket_set(opened, SOL_SOCKET, SO_REUSEPORT, 1))) {
            ur_fail(why, code, "SO_REUSEPORT: %s: use one worker", strerror(-code));
            break;
        }
        code = bind_one(opened, families[i], &chosen);
        if (!code)
            continue;
        if (code == -EADDRNOTAVAIL || code == -EAFNOSUPPORT) {   /* the kernel has the family, but it is disabled */
            close(opened);
            fd[i] = -1;
            code = 0;
            continue;
        }
        ur_fail(why, code, "binding UDP port %u, %s: %s", chosen, i ? "IPv6" : "IPv4", strerror(-code));
        break;
    }
    if (!code && fd[0] < 0 && fd[1] < 0)
        code = ur_fail(why, -EAFNOSUPPORT, "no UDP socket: this host or its sandbox has neither AF_INET nor AF_INET6");
    if (code) {
        for (int i = 0; i < 2; i++) {
            if (fd[i] >= 0)
                close(fd[i]);
            fd[i] = -1;
        }
        return code;
    }
    *port = chosen;
    return 0;
}

static void close_pair(int fd[2])
{
    for (int i = 0; i < 2; i++) {
        if (fd[i] >= 0)
            close(fd[i]);
        fd[i] = -1;
    }
}

int udp_socket_pair(int fd[2], uint16_t *port, uint32_t fwmark, struct udpring_reason *why)
{
    int tries = *port ? 1 : PORT_TRIES;
    int code = -EADDRINUSE;
    while (tries-- > 0 && code == -EADDRINUSE)
        code = open_pair(fd, port, fwmark, false, why);
    return code;
}

static int share(const int fd[2], struct udpring_reason *why)
{
    for (int i = 0; i < 2; i++) {
        int code = fd[i] < 0 ? 0 : udp_socket_set(fd[i], SOL_SOCKET, SO_REUSEPORT, 1);
        if (code)
            return ur_fail(why, code, "SO_REUSEPORT: %s: use one worker", strerror(-code));
    }
    return 0;
}

/* A small buffer drops excess messages early, and the remaining ones are recent when they are read. */
static void shrink_buffer(const int fd[2], uint32_t bytes)
{
    for (int i = 0; i < 2; i++)
        if (fd[i] >= 0 && udp_socket_set(fd[i], SOL_SOCKET, SO_RCVBUFFORCE, (int)bytes))
            (void)udp_socket_set(fd[i], SOL_SOCKET, SO_RCVBUF, (int)bytes);
}

int udp_socket_group(int (*fd)[2], uint32_t count, int separate[2], const struct udp_split *split, uint16_t *port,
                     uint32_t fwmark, struct udpring_reason *why)
{
    bool splits = separate && split;
    if (separate)
        separate[0] = separate[1] = -1;
    for (uint32_t i = 0; i < count; i++)
        fd[i][0] = fd[i][1] = -1;
    int code = udp_socket_pair(splits ? separate : fd[0], port, fwmark, why);
    uint32_t opened = splits ? 0 : 1;
    if (!code && count > opened)
        code = share(splits ? separate : fd[0], why);
    while (!code && opened < count)
        code = open_pair(fd[opened++], port, fwmark, true, why);
    if (!code && splits) {
        shrink_buffer(separate, split->buffer_bytes);
        for (int i = 0; i < 2 && !code; i++) {
            if (separate[i] < 0)
                continue;
            code = udp_split_attach(separate[i], i ? AF_INET6 : AF_INET, split, count, why);
            if (!code)
                (void)udp_split_filter(separate[i], split);   /* without the filter such datagrams are read and dropped */
        }
    }
    if (!code)
        return 0;
    for (uint32_t i = 0; i < count; i++)
        close_pair(fd[i]);
    if (separate)
        close_pair(separate);
    return code;
}

int udp_socket_mark(const int fd[2], uint32_t fwmark)
{
    int first = 0;
    for (int i = 0; i < 2; i++) {
        int code = fd[i] < 0 ? 0 : udp_socket_set(fd[i], SOL_SOCKET, SO_MARK, (int)fwmark);
        if (code && !first)
            first = code;
    }
    return first;
}
