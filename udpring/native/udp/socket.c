#include "socket.h"

#include <arpa/inet.h>

static int number_of(int fd, int option)
{
    int number = 0;
    socklen_t length = sizeof(number);
    return getsockopt(fd, SOL_SOCKET, option, &number, &length) ? -errno : number;
}

int udp_socket_family(int fd, struct udpring_reason *why)
{
    int family = number_of(fd, SO_DOMAIN);
    if (family < 0)
        return ur_fail(why, family, "descriptor %d is not an open socket: %s", fd, strerror(-family));
    if (number_of(fd, SO_TYPE) != SOCK_DGRAM || (family != AF_INET && family != AF_INET6))
        return ur_fail(why, -EPROTOTYPE, "descriptor %d is not a UDP socket. Use one of AF_INET or AF_INET6 and SOCK_DGRAM", fd);
    return family;
}

int udp_socket_prepare(int fd, unsigned wants, struct udpring_reason *why)
{
    int code = 0, family = udp_socket_family(fd, why);
    if (family < 0)
        return family;
    bool ipv6 = family == AF_INET6;
    if (wants & UDP_SOCKET_LOCAL)
        code = ipv6 ? udp_socket_set(fd, SOL_IPV6, IPV6_RECVPKTINFO, 1) : udp_socket_set(fd, SOL_IP, IP_PKTINFO, 1);
    if (!code && wants & UDP_SOCKET_TOS) {
        /* A dual-stack socket gets both options. Some old kernels refuse IP_RECVTOS there. Then only the TOS of IPv4 is
         * unknown, so the next call may overwrite this code. */
        code = udp_socket_set(fd, SOL_IP, IP_RECVTOS, 1);
        if (ipv6)
            code = udp_socket_set(fd, SOL_IPV6, IPV6_RECVTCLASS, 1);
    }
    if (code)
        return ur_fail(why, code, "descriptor %d: pktinfo and TOS cannot be switched on: %s", fd, strerror(-code));
    (void)udp_socket_set(fd, SOL_SOCKET, SO_RXQ_OVFL, 1);   /* needed only for a counter */
    return 0;
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
