#include "tun_packet.h"

#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

/* All that the core makes. A kernel that takes less refuses super-packets, and the coalescer learns that. */
#define OFFLOADS (TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_OFFLOAD_UDP)
#define UNREADABLE_MAX 8   /* packets in one read that the kernel cannot describe */

int tun_packet_take(struct tun *tun, const char *name, bool offload, struct udpring_reason *why)
{
    int on = 1;
    struct ifreq request = {0};
    if (setsockopt(tun->fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) != 0)
        return ur_fail(why, -errno, "a packet socket without PACKET_VNET_HDR: %s: open it with SOCK_RAW", strerror(errno));
    snprintf(tun->name, sizeof(tun->name), "%s", name);
    memcpy(request.ifr_name, tun->name, IFNAMSIZ);
    tun->vnet = true;
    tun->link = LINK_HEADER;
    tun->offloads = offload ? OFFLOADS : 0;
    if (tun->query_fd < 0)
        return 0;   /* one more queue: the address is the first's */
    if (ioctl(tun->query_fd, SIOCGIFHWADDR, &request) != 0)
        return ur_fail(why, -errno, "interface %s: no address of its own: %s", name, strerror(errno));
    /* The kernel accepts only packets addressed to the interface. The source does not matter. */
    memcpy(tun->link_header, request.ifr_hwaddr.sa_data, ETH_ALEN);
    memcpy(tun->link_header + ETH_ALEN, request.ifr_hwaddr.sa_data, ETH_ALEN);
    return 0;
}

ssize_t tun_packet_read(struct tun *tun, struct vnet_header *vnet, uint8_t *packet, size_t room)
{
    enum { BEFORE = VNET_HEADER + LINK_HEADER };
    ssize_t got;
    unsigned unreadable = 0;
    do
        got = read(tun->fd, packet - BEFORE, room + BEFORE);
    /* EINVAL: super-packets of a kind that struct virtio_net_hdr lacks. The kernel has dropped this one. */
    while (got < 0 && (errno == EINTR || (errno == EINVAL && unreadable++ < UNREADABLE_MAX)));
    tun->lost += unreadable;
    if (got < 0)
        return errno == ENETDOWN || errno == EINVAL ? -EAGAIN : -errno;   /* down: the socket wakes us when it is up */
    if (got <= BEFORE)
        return -EAGAIN;
    memcpy(vnet, packet - BEFORE, VNET_HEADER);
    if (vnet->flags & VNET_NEEDS_CSUM)
        vnet->csum_start = (uint16_t)(vnet->csum_start - LINK_HEADER);
    if (vnet->gso_type != VNET_GSO_NONE)
        vnet->hdr_len = (uint16_t)(vnet->hdr_len - LINK_HEADER);
    return got - BEFORE;
}

int tun_packet_write(const struct tun *tun, const struct vnet_header *vnet, struct iovec *parts, int count)
{
    struct {
        struct vnet_header vnet;
        uint8_t link[LINK_HEADER];
    } head = {.vnet = *vnet};
    _Static_assert(sizeof(head) == VNET_HEADER + LINK_HEADER, "no gap between the headers");
    bool v6 = *(const uint8_t *)parts[1].iov_base >> 4 == 6;
    ssize_t put;
    if (vnet->flags & VNET_NEEDS_CSUM)
        head.vnet.csum_start = (uint16_t)(vnet->csum_start + LINK_HEADER);
    if (vnet->gso_type != VNET_GSO_NONE)
        head.vnet.hdr_len = (uint16_t)(vnet->hdr_len + LINK_HEADER);
    memcpy(head.link, tun->link_header, sizeof(tun->link_header));
    head.link[12] = v6 ? ETH_P_IPV6 >> 8 : ETH_P_IP >> 8;
    head.link[13] = v6 ? ETH_P_IPV6 & 0xff : ETH_P_IP & 0xff;
    parts[0] = (struct iovec){.iov_base = &head, .iov_len = sizeof(head)};
    do
        put = writev(tun->fd, parts, count);
    while (put < 0 && errno == EINTR);
    parts[0] = (struct iovec){0};
    return put < 0 ? -errno : 0;
}

uint64_t tun_packet_lost(struct tun *tun)
{
    struct tpacket_stats since = {0};   /* the kernel begins anew with each look */
    socklen_t length = sizeof(since);
    if (tun->link && getsockopt(tun->fd, SOL_PACKET, PACKET_STATISTICS, &since, &length) == 0)
        tun->lost += since.tp_drops;
    return tun->lost;
}
