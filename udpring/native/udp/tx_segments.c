/* Finds the most segments of a UDP_SEGMENT train. UDP_MAX_SEGMENTS was 64 and is 128 since Linux 6.10. No call returns it, so a
 * train of 128 one-byte datagrams is sent over loopback once. Source: udp(7), net/ipv4/udp.c. */
#include <netinet/in.h>
#include <stdatomic.h>
#include <unistd.h>

#include "cmsg.h"
#include "socket.h"
#include "tx.h"

#define SEGMENTS_ALWAYS 64u
#define SEGMENTS_NEWER 128u

/* True if the kernel took the train. The datagrams are discarded when the socket is closed. */
static bool takes(int family, uint32_t segments)
{
    static const uint8_t data[SEGMENTS_NEWER];
    struct udpring_address loopback = {.family = (uint16_t)family};
    if (family == AF_INET)
        memcpy(loopback.ip, (const uint8_t[]){127, 0, 0, 1}, 4);
    else
        loopback.ip[15] = 1;
    struct sockaddr_storage name;
    socklen_t length = udp_address_to_sockaddr(&loopback, family, &name), bound = sizeof(name);
    int to = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0), from = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    bool taken = false;
    if (to >= 0 && from >= 0 && !bind(to, (struct sockaddr *)&name, length) &&
        !getsockname(to, (struct sockaddr *)&name, &bound)) {
        _Alignas(struct cmsghdr) uint8_t control[UDP_CMSG_BUILD_BYTES];
        struct udp_tx_item item = {.segment_size = 1};
        size_t plain;
        struct iovec vector = {.iov_base = (void *)(uintptr_t)data, .iov_len = segments};
        struct msghdr header = {.msg_name = &name, .msg_namelen = bound, .msg_iov = &vector, .msg_iovlen = 1,
                                .msg_control = control};
        header.msg_controllen = udp_cmsg_build(control, &item, family, true, &plain);
        taken = sendmsg(from, &header, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)segments;
    }
    if (to >= 0)
        close(to);
    if (from >= 0)
        close(from);
    return taken;
}

uint32_t udp_tx_segments_max(void)
{
    static _Atomic(uint32_t) known;   /* several threads may probe at once, with the same result */
    uint32_t segments = atomic_load_explicit(&known, memory_order_relaxed);
    if (ur_unlikely(!segments)) {
        segments = takes(AF_INET, SEGMENTS_NEWER) || takes(AF_INET6, SEGMENTS_NEWER) ? SEGMENTS_NEWER : SEGMENTS_ALWAYS;
        atomic_store_explicit(&known, segments, memory_order_relaxed);
    }
    return segments;
}
