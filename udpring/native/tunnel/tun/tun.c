#include "tun.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <sched.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tun_packet.h"

/* Newer than some distributions' headers (Linux 6.2). */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif
#ifndef TUNGETDEVNETNS
#define TUNGETDEVNETNS _IO('T', 227)
#endif

/* For requests about interfaces, which any family takes (net/socket.c sock_do_ioctl). A sandbox may lack AF_INET, none lacks
 * AF_UNIX. */
static int any_socket(void)
{
    return socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
}

/* A socket in the network namespace of the interface, which may have been moved since it was made. Only the calling thread
 * enters that namespace, and returns at once. */
static int query_socket(const struct tun *tun)
{
    int there = ioctl(tun->fd, TUNGETDEVNETNS);
    if (there < 0)
        return any_socket();
    int here = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    int fd = -1;
    if (here >= 0 && setns(there, CLONE_NEWNET) == 0) {
        fd = any_socket();
        if (setns(here, CLONE_NEWNET) != 0) {
            /* Cannot happen while we hold the right to enter a namespace we came from. Sockets must not be opened
             * in the wrong one, so nothing may go on from here. */
            close(fd);
            fd = -1;
        }
    } else {
        fd = any_socket();
    }
    if (here >= 0)
        close(here);
    close(there);
    return fd;
}

void tun_refresh(struct tun *tun)
{
    struct ifreq request = {0};
    if (!tun->link) {
        if (ioctl(tun->fd, TUNGETIFF, &request) != 0)
            return;
        memcpy(tun->name, request.ifr_name, IFNAMSIZ);
        tun->name[IFNAMSIZ - 1] = 0;
    }
    for (int attempt = 0; attempt < 2; attempt++) {
        if (tun->query_fd < 0)
            tun->query_fd = query_socket(tun);
        if (tun->query_fd < 0)
            return;
        memset(&request, 0, sizeof(request));
        memcpy(request.ifr_name, tun->name, IFNAMSIZ);
        if (ioctl(tun->query_fd, SIOCGIFMTU, &request) == 0) {
            tun->mtu = (uint32_t)request.ifr_mtu;
            return;
        }
        if (tun->elsewhere)
            return;             /* no other socket reaches it */
        close(tun->query_fd);   /* moved to another namespace: ask there */
        tun->query_fd = -1;
    }
}

static int set_mtu(const struct tun *tun, uint32_t mtu, struct udpring_reason *why)
{
    struct ifreq request = {0};
    memcpy(request.ifr_name, tun->name, IFNAMSIZ);
    request.ifr_mtu = (int)mtu;
    int fd = any_socket();
    if (fd < 0)
        return ur_fail(why, -errno, "interface %s: no UNIX socket to set its MTU by: %s", tun->name, strerror(errno));
    int result = ioctl(fd, SIOCSIFMTU, &request) == 0 ? 0 : -errno;
    close(fd);
    return result < 0 ? ur_fail(why, result, "interface %s: MTU %u refused: %s", tun->name, mtu, strerror(-result)) : 0;
}

void tun_set_offloads(struct tun *tun, bool wanted)
{
    static const unsigned sets[] = {
        TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6,
        TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN,
        TUN_F_CSUM,
        0,
    };
    if (!tun->vnet)
        return;
    for (size_t i = wanted ? 0 : UR_ARRAY_LENGTH(sets) - 1; i < UR_ARRAY_LENGTH(sets); i++)
        if (ioctl(tun->fd, TUNSETOFFLOAD, sets[i]) == 0) {
            tun->offloads = sets[i];
            return;
        }
}

int tun_open(struct tun *tun, const char *name, uint32_t mtu, bool offload, bool many, struct udpring_reason *why)
{
    *tun = (struct tun){.fd = open(TUN_NODE, O_RDWR | O_CLOEXEC | O_NONBLOCK), .query_fd = -1, .mtu = mtu};
    if (tun->fd < 0)
        return tun_refused_node(errno, why);
    struct ifreq request = {.ifr_flags = (short)(IFF_TUN | IFF_NO_PI | (offload ? IFF_VNET_HDR : 0) |
                                                (many ? IFF_MULTI_QUEUE : 0))};
    snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
    if (ioctl(tun->fd, TUNSETIFF, &request) != 0) {
        int code = errno;
        tun_close(tun);
        return tun_refused_interface(code, name, why);
    }
    memcpy(tun->name, request.ifr_name, IFNAMSIZ);
    tun->vnet = offload;
    tun->many = many;
    tun_set_offloads(tun, offload);
    if (mtu) {
        int result = set_mtu(tun, mtu, why);
        if (result < 0) {
            tun_close(tun);
            return result;
        }
    }
    (void)tun_no_addresses_by_itself(tun);   /* without AF_NETLINK or IPv6 there is nothing to be done */
    tun_refresh(tun);
    return 0;
}

int tun_open_queue(struct tun *queue, const struct tun *first, struct udpring_reason *why)
{
    *queue = (struct tun){.fd = open(TUN_NODE, O_RDWR | O_CLOEXEC | O_NONBLOCK), .query_fd = -1, .mtu = first->mtu,
                          .vnet = first->vnet, .many = true};
    if (queue->fd < 0)
        return tun_refused_node(errno, why);
    struct ifreq request = {.ifr_flags = (short)(IFF_TUN | IFF_NO_PI | IFF_MULTI_QUEUE | (first->vnet ? IFF_VNET_HDR : 0))};
    memcpy(request.ifr_name, first->name, IFNAMSIZ);
    memcpy(queue->name, first->name, IFNAMSIZ);
    if (ioctl(queue->fd, TUNSETIFF, &request) != 0) {
        int code = errno;
        tun_close(queue);
        return tun_refused_interface(code, first->name, why);
    }
    queue->offloads = first->offloads;   /* the device's, not the queue's */
    return 0;
}

void tun_close(struct tun *tun)
{
    if (tun->query_fd >= 0)
        close(tun->query_fd);
    if (tun->fd >= 0)
        close(tun->fd);
    tun->fd = tun->query_fd = -1;
}

ssize_t tun_read(struct tun *tun, struct vnet_header *vnet, uint8_t *packet, size_t room)
{
    size_t header = tun->vnet ? VNET_HEADER : 0;
    ssize_t got;
    if (tun->link)
        return tun_packet_read(tun, vnet, packet, room);
    do
        got = read(tun->fd, packet - header, room + header);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return -errno;
    if ((size_t)got <= header)
        return -EAGAIN;
    memcpy(vnet, packet - header, header);
    return got - (ssize_t)header;
}

int tun_write(const struct tun *tun, struct vnet_header *vnet, struct iovec *parts, int count)
{
    ssize_t put;
    if (tun->link)
        return tun_packet_write(tun, vnet, parts, count);
    parts[0] = (struct iovec){.iov_base = vnet, .iov_len = tun->vnet ? VNET_HEADER : 0};
    do
        put = writev(tun->fd, parts, count);
    while (put < 0 && errno == EINTR);
    return put < 0 ? -errno : 0;
}
