/* Descriptors of an interface that somebody else opened. */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "tun.h"
#include "tun_packet.h"

static bool is_packet_socket(int fd)
{
    int domain = 0;
    socklen_t length = sizeof(domain);
    return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length) == 0 && domain == AF_PACKET;
}

static int not_tun(int fd, int code, struct udpring_reason *why)
{
    return ur_fail(why, -code, "descriptor %d is not a TUN device: %s", fd, strerror(code));
}

static int take_device(struct tun *tun, int fd, bool offload, struct udpring_reason *why)
{
    struct ifreq request = {0};
    int header = VNET_HEADER;
    if (ioctl(tun->fd, TUNGETIFF, &request) != 0)
        return not_tun(fd, errno, why);
    tun->vnet = request.ifr_flags & IFF_VNET_HDR;
    if ((request.ifr_flags & (IFF_TUN | IFF_NO_PI)) != (IFF_TUN | IFF_NO_PI) ||
        (tun->vnet && ioctl(tun->fd, TUNSETVNETHDRSZ, &header) != 0))
        return ur_fail(why, -EINVAL, "descriptor %d: open the TUN device with IFF_TUN | IFF_NO_PI", fd);
    memcpy(tun->name, request.ifr_name, IFNAMSIZ);
    tun->many = request.ifr_flags & IFF_MULTI_QUEUE;
    tun_set_offloads(tun, offload);
    return 0;
}

int tun_take(struct tun *tun, const char *name, int fd, int query_fd, bool offload, struct udpring_reason *why)
{
    struct tun taken = {.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0), .query_fd = -1, .elsewhere = query_fd >= 0};
    int flags = fcntl(taken.fd, F_GETFL);
    if (flags < 0 || fcntl(taken.fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return not_tun(fd, errno, why);
    int result = 0;
    if (query_fd >= 0 && (taken.query_fd = fcntl(query_fd, F_DUPFD_CLOEXEC, 0)) < 0)
        result = ur_fail(why, -errno, "descriptor %d, to ask about the interface by: %s", query_fd, strerror(errno));
    if (result == 0)
        result = is_packet_socket(fd) ? tun_packet_take(&taken, name, offload, why) : take_device(&taken, fd, offload, why);
    if (result < 0) {
        tun_close(&taken);
        return result;
    }
    *tun = taken;
    tun_refresh(tun);
    return 0;
}

int tun_take_queue(struct tun *queue, const struct tun *first, int fd, struct udpring_reason *why)
{
    int result = tun_take(queue, first->name, fd, -1, first->offloads != 0, why);
    if (result < 0)
        return result;
    queue->mtu = first->mtu;
    if (queue->link)
        memcpy(queue->link_header, first->link_header, sizeof(queue->link_header));
    return 0;
}
