#include "socket.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>
#include <unistd.h>

#define BUFFER_BYTES (7 << 20)   /* as wireguard-go asks for: a burst of 100 full GRO trains */
#define PORT_TRIES 100           /* of ports that the kernel chose and the other family turned out to have taken */

static int set_int(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof(value)) ? -errno : 0;
}

static int family_of(int fd)
{
    int family = 0;
    socklen_t length = sizeof(family);
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length) ? -errno : family;
}

int udp_socket_prepare(int fd, struct udpring_reason *why)
{
    int type = 0, code = 0;
    socklen_t length = sizeof(type);
    int family = family_of(fd);
    if (family < 0)
        return ur_fail(why, family, "descriptor %d is no open socket: %s", fd, strerror(-family));
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) || type != SOCK_DGRAM ||
        (family != AF_INET && family != AF_INET6))
        return ur_fail(why, -EPROTOTYPE, "descriptor %d is no UDP socket: give one of AF_INET or AF_INET6, SOCK_DGRAM", fd);
    if (family == AF_INET6) {
        code = set_int(fd, SOL_IPV6, IPV6_RECVPKTINFO, 1);
        if (!code)
            code = set_int(fd, SOL_IPV6, IPV6_RECVTCLASS, 1);
        /* For IPv4 arriving on a dual-stack socket; refused on some old kernels, and then only its TOS is unknown. */
        (void)set_int(fd, SOL_IP, IP_RECVTOS, 1);
    } else {
        code = set_int(fd, SOL_IP, IP_PKTINFO, 1);
        if (!code)
            code = set_int(fd, SOL_IP, IP_RECVTOS, 1);
    }
    if (code)
        return ur_fail(why, code, "descriptor %d: pktinfo and TOS cannot be switched on: %s", fd, strerror(-code));
    (void)set_int(fd, SOL_SOCKET, SO_RXQ_OVFL, 1);   /* only a counter hangs on it */
    return 0;
}

/* The FORCE variants go beyond net.core.*mem_max but need CAP_NET_ADMIN; a smaller buffer is no error. */
static void grow_buffers(int fd)
{
    if (set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES))
        (void)set_int(fd, SOL_SOCKET, SO_RCVBUF, BUFFER_BYTES);
    if (set_int(fd, SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_BYTES))
        (void)set_int(fd, SOL_SOCKET, SO_SNDBUF, BUFFER_BYTES);
}

/* One socket of the pair, options set, not bound. */
static int open_one(int family, uint32_t fwmark, struct udpring_reason *why)
{
    const char *name = family == AF_INET ? "IPv4" : "IPv6";
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_UDP);
    if (fd < 0)
        return ur_fail(why, -errno, "no %s UDP socket: %s", name, strerror(errno));
    int code = udp_socket_prepare(fd, why);
    if (!code && family == AF_INET6)
        code = set_int(fd, SOL_IPV6, IPV6_V6ONLY, 1);
    /* No path MTU discovery: the outer packet may be fragmented, as WireGuard's is. */
    if (!code)
        code = family == AF_INET ? set_int(fd, SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
                                 : set_int(fd, SOL_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT);
    if (!code && fwmark)
        code = set_int(fd, SOL_SOCKET, SO_MARK, (int)fwmark);
    if (code) {
        close(fd);
        return ur_fail(why, code, "%s UDP socket cannot be set up: %s%s", name, strerror(-code),
                       code == -EPERM ? " (SO_MARK needs CAP_NET_ADMIN)" : "");
    }
    grow_buffers(fd);
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

/* One attempt at both families on one port. -EADDRINUSE may be cured by another attempt when *port was 0. */
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
        if (shared && (code = set_int(opened, SOL_SOCKET, SO_REUSEPORT, 1))) {
            ur_fail(why, code, "SO_REUSEPORT: %s: use one worker", strerror(-code));
            break;
        }
        code = bind_one(opened, families[i], &chosen);
        if (!code)
            continue;
        if (code == -EADDRNOTAVAIL || code == -EAFNOSUPPORT) {   /* the family is compiled in but switched off */
            close(opened);
            fd[i] = -1;
            code = 0;
            continue;
        }
        ur_fail(why, code, "UDP port %u (%s): %s%s", chosen, i ? "IPv6" : "IPv4", strerror(-code),
                code == -EADDRINUSE ? ": another program has it; choose another ListenPort or stop that program" : "");
        break;
    }
    if (!code && fd[0] < 0 && fd[1] < 0)
        code = ur_fail(why, -EAFNOSUPPORT, "this host has neither IPv4 nor IPv6");
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

int udp_socket_pair(int fd[2], uint16_t *port, uint32_t fwmark, struct udpring_reason *why)
{
    int tries = *port ? 1 : PORT_TRIES;
    int code = -EADDRINUSE;
    while (tries-- > 0 && code == -EADDRINUSE)
        code = open_pair(fd, port, fwmark, false, why);
    return code;
}

static void close_pair(int fd[2])
{
    for (int i = 0; i < 2; i++) {
        if (fd[i] >= 0)
            close(fd[i]);
        fd[i] = -1;
    }
}

int udp_socket_group(int (*fd)[2], uint32_t count, uint16_t *port, uint32_t fwmark, struct udpring_reason *why)
{
    /* A first pair that shares with nobody: it finds out whether another program has the port. */
    int code = udp_socket_pair(fd[0], port, fwmark, why);
    if (code || count == 1)
        return code;
    close_pair(fd[0]);
    for (uint32_t opened = 0; opened < count; opened++) {
        code = open_pair(fd[opened], port, fwmark, true, why);
        if (code) {
            while (opened--)
                close_pair(fd[opened]);
            return code;
        }
    }
    return 0;
}

int udp_socket_mark(const int fd[2], uint32_t fwmark)
{
    int first = 0;
    for (int i = 0; i < 2; i++) {
        int code = fd[i] < 0 ? 0 : set_int(fd[i], SOL_SOCKET, SO_MARK, (int)fwmark);
        if (code && !first)
            first = code;
    }
    return first;
}

socklen_t udp_address_to_sockaddr(const struct udpring_address *address, int socket_family, struct sockaddr_storage *to)
{
    if (address->family == AF_INET && socket_family == AF_INET) {
        struct sockaddr_in *in = (struct sockaddr_in *)to;
        *in = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(address->port)};
        memcpy(&in->sin_addr, address->ip, 4);
        return sizeof(*in);
    }
    if (socket_family != AF_INET6 || (address->family != AF_INET && address->family != AF_INET6))
        return 0;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)to;
    *in6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(address->port)};
    if (address->family == AF_INET) {
        in6->sin6_addr.s6_addr[10] = in6->sin6_addr.s6_addr[11] = 0xff;
        memcpy(in6->sin6_addr.s6_addr + 12, address->ip, 4);
    } else {
        in6->sin6_scope_id = address->scope_id;
        memcpy(&in6->sin6_addr, address->ip, 16);
    }
    return sizeof(*in6);
}

bool udp_address_from_sockaddr(const struct sockaddr_storage *from, socklen_t length, struct udpring_address *to)
{
    memset(to, 0, sizeof(*to));
    if (length >= sizeof(struct sockaddr_in) && from->ss_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)from;
        to->family = AF_INET;
        to->port = ntohs(in->sin_port);
        memcpy(to->ip, &in->sin_addr, 4);
        return true;
    }
    if (length < sizeof(struct sockaddr_in6) || from->ss_family != AF_INET6)
        return false;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)from;
    to->port = ntohs(in6->sin6_port);
    if (IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr)) {
        to->family = AF_INET;
        memcpy(to->ip, in6->sin6_addr.s6_addr + 12, 4);
        return true;
    }
    to->family = AF_INET6;
    to->scope_id = in6->sin6_scope_id;
    memcpy(to->ip, &in6->sin6_addr, 16);
    return true;
}
