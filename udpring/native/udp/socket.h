/* UDP sockets with the options of the data plane, and conversion of addresses. Sources: udp(7), ip(7), ipv6(7). */
#ifndef UDPRING_UDP_SOCKET_H
#define UDPRING_UDP_SOCKET_H
#include "../base.h"   /* include first: it defines _GNU_SOURCE */

#include <netinet/in.h>
#include <sys/socket.h>

#include "abi.h"

/* Opens the two sockets of a tunnel node on one port: fd[0] IPv4, fd[1] IPv6 only. With *port 0 the kernel chooses a port that
 * is free for both, and *port then holds it. A family that the host lacks gives fd -1 (both: -EAFNOSUPPORT). Options: pktinfo,
 * TOS/TCLASS, no path MTU discovery (WireGuard lets the outer packet be fragmented), large buffers, SO_MARK. */
int udp_socket_pair(int fd[2], uint16_t *port, uint32_t fwmark, struct udpring_reason *why) UR_MUST_CHECK;
struct udp_split;
/* Opens `count` such pairs on one port (with SO_REUSEPORT if more than one). The kernel sends all datagrams of a sender to the
 * same pair. With a split (socket_split.h) the pair `separate`, which may be NULL, gets the separate kinds, and the others get
 * the rest. */
int udp_socket_group(int (*fd)[2], uint32_t count, int separate[2], const struct udp_split *split, uint16_t *port,
                     uint32_t fwmark, struct udpring_reason *why) UR_MUST_CHECK;
/* AF_INET or AF_INET6. -EPROTOTYPE if fd is not a UDP socket. */
int udp_socket_family(int fd, struct udpring_reason *why) UR_MUST_CHECK;
int udp_socket_mark(const int fd[2], uint32_t fwmark) UR_MUST_CHECK;
/* Sets the options of a receiving socket that the user made: counting of drops, and the control messages that `wants` names.
 * Each of these costs the kernel about 50 ns a datagram. */
enum udp_socket_wants { UDP_SOCKET_LOCAL = 1, UDP_SOCKET_TOS = 2 };
int udp_socket_prepare(int fd, unsigned wants, struct udpring_reason *why) UR_MUST_CHECK;

static inline int udp_socket_set(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof(value)) ? -errno : 0;
}

socklen_t udp_address_to_sockaddr(const struct udpring_address *address, int socket_family, struct sockaddr_storage *to);
bool udp_address_from_sockaddr(const struct sockaddr_storage *from, socklen_t length, struct udpring_address *to);
#endif
