#include "model_kernel.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
enum { TYPE_UDP_SEGMENT = 103, TYPE_UDP_GRO = 104 };

#include "udp/socket.h"

struct kernel kernel;

struct kernel_file *kernel_file(int fd)
{
    bool ours = kernel.active && fd >= KERNEL_FD && fd < KERNEL_FD + KERNEL_FDS;
    return ours && kernel.file[fd - KERNEL_FD].kind != KERNEL_CLOSED ? &kernel.file[fd - KERNEL_FD] : NULL;
}

void kernel_reset(void)
{
    for (uint32_t i = 0; i < KERNEL_FDS; i++)
        CLAIM(kernel.file[i].kind == KERNEL_CLOSED, "descriptor %u of kind %u was left open", i, kernel.file[i].kind);
    kernel = (struct kernel){.random = 0x9e3779b97f4a7c15u};
}

bool kernel_put(struct kernel_file *file, const struct kernel_packet *packet)
{
    if (!file || file->count == KERNEL_QUEUE) {
        free(packet->bytes);
        return false;
    }
    file->queue[(file->head + file->count++) % KERNEL_QUEUE] = *packet;
    return true;
}

struct kernel_file *kernel_nth(enum kernel_kind kind, int family, uint32_t n)
{
    for (uint32_t i = 0; i < KERNEL_FDS; i++) {
        struct kernel_file *file = &kernel.file[i];
        if (file->kind == kind && file->family == family && n-- == 0)
            return file;
    }
    return NULL;
}

short kernel_events(const struct kernel_file *file, short wanted)
{
    if (!file)
        return 0x20;   /* POLLNVAL */
    short there = 0;
    if (file->kind == KERNEL_EVENT ? file->event != 0 : file->count || file->overrun || (file->kind == KERNEL_TUN && kernel.device_gone))
        there |= 1;    /* POLLIN */
    if (file->kind != KERNEL_UDP || !file->full)
        there |= 4;    /* POLLOUT */
    return there & wanted;
}

static struct kernel_packet take(struct kernel_file *file)
{
    struct kernel_packet packet = file->queue[file->head];
    file->head = (file->head + 1) % KERNEL_QUEUE;
    file->count--;
    return packet;
}

/* Appends one message of ancillary data where there is room. */
static size_t put_control(struct msghdr *header, size_t used, int level, int type, const void *data, size_t bytes)
{
    if (used + CMSG_SPACE(bytes) > header->msg_controllen) {
        header->msg_flags |= MSG_CTRUNC;
        return used;
    }
    struct cmsghdr message = {.cmsg_len = CMSG_LEN(bytes), .cmsg_level = level, .cmsg_type = type};
    uint8_t *at = (uint8_t *)header->msg_control + used;
    memcpy(at, &message, sizeof(message));
    memcpy(at + CMSG_LEN(0), data, bytes);
    return used + CMSG_SPACE(bytes);
}

static void fill_control(struct msghdr *header, int family, const struct kernel_packet *packet)
{
    size_t used = 0;
    int tos = packet->tos, segment = (int)packet->segment;
    if (packet->local.family && family == AF_INET) {
        struct in_pktinfo info = {.ipi_ifindex = (int)packet->interface_index};
        memcpy(&info.ipi_spec_dst, packet->local.ip, 4);
        used = put_control(header, used, SOL_IP, IP_PKTINFO, &info, sizeof(info));
    } else if (packet->local.family) {
        struct in6_pktinfo info = {.ipi6_ifindex = packet->interface_index};
        memcpy(&info.ipi6_addr, packet->local.ip, 16);
        used = put_control(header, used, SOL_IPV6, IPV6_PKTINFO, &info, sizeof(info));
    }
    if (family == AF_INET)
        used = put_control(header, used, SOL_IP, IP_TOS, &packet->tos, 1);
    else
        used = put_control(header, used, SOL_IPV6, IPV6_TCLASS, &tos, sizeof(tos));
    if (segment)
        used = put_control(header, used, SOL_UDP, TYPE_UDP_GRO, &segment, sizeof(segment));
    header->msg_controllen = used;
}

ssize_t kernel_receive(int fd, struct msghdr *header)
{
    struct kernel_file *file = kernel_file(fd);
    if (!file || file->kind != KERNEL_UDP)
        return -EBADF;
    if (!file->count)
        return -EAGAIN;
    struct kernel_packet packet = take(file);
    if (packet.error) {
        free(packet.bytes);
        return -packet.error;
    }
    size_t room = header->msg_iovlen ? header->msg_iov[0].iov_len : 0;
    size_t copied = packet.length < room ? packet.length : room;
    header->msg_flags = copied < packet.length ? MSG_TRUNC : 0;
    if (kernel.received)
        kernel.received(fd, &packet, copied < packet.length);
    if (copied)
        memcpy(header->msg_iov[0].iov_base, packet.bytes, copied);
    struct sockaddr_storage name;
    socklen_t length = udp_address_to_sockaddr(&packet.source, file->family, &name);
    if (header->msg_name) {
        memcpy(header->msg_name, &name, length < header->msg_namelen ? length : header->msg_namelen);
        header->msg_namelen = length;
    }
    fill_control(header, file->family, &packet);
    free(packet.bytes);
    return (ssize_t)copied;
}

static void read_control(struct kernel_send *send, const struct msghdr *header)
{
    struct msghdr copy = *header;
    for (struct cmsghdr *at = CMSG_FIRSTHDR(&copy); at; at = CMSG_NXTHDR(&copy, at)) {
        const uint8_t *data = CMSG_DATA(at);
        if (at->cmsg_level == SOL_UDP && at->cmsg_type == TYPE_UDP_SEGMENT) {
            uint16_t segment;
            memcpy(&segment, data, sizeof(segment));
            send->segment = segment;
        } else if (at->cmsg_level == SOL_IP && at->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, data, sizeof(info));
            send->source.family = info.ipi_spec_dst.s_addr ? AF_INET : 0;
            memcpy(send->source.ip, &info.ipi_spec_dst, 4);
            send->interface_index = (uint32_t)info.ipi_ifindex;
        } else if (at->cmsg_level == SOL_IPV6 && at->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, data, sizeof(info));
            send->source.family = AF_INET6;
            memcpy(send->source.ip, &info.ipi6_addr, 16);
            send->interface_index = info.ipi6_ifindex;
        } else {
            memcpy(&send->tos, data, sizeof(send->tos));
        }
    }
}

int32_t kernel_send(int fd, const struct msghdr *header)
{
    const struct kernel_file *file = kernel_file(fd);
    if (!file || file->kind != KERNEL_UDP)
        return -EBADF;
    if (file->full) {
        kernel.was_full = true;
        return -EAGAIN;
    }
    struct kernel_send send = {.fd = fd, .message = header, .tos = -1};
    CLAIM(header->msg_name && udp_address_from_sockaddr(header->msg_name, header->msg_namelen, &send.destination),
          "a message to nobody");
    CLAIM(send.destination.family == file->family, "an address of family %u on a socket of family %d", send.destination.family,
          file->family);
    for (size_t i = 0; i < header->msg_iovlen; i++)
        send.length += (uint32_t)header->msg_iov[i].iov_len;
    read_control(&send, header);
    if (send.length > (file->family == AF_INET ? 65507u : 65527u))
        return -EMSGSIZE;
    if (send.segment && (send.length + send.segment - 1) / send.segment > 64)
        return -EINVAL;
    return kernel.send(&send);
}

ssize_t kernel_tun_read(struct kernel_file *file, uint8_t *into, size_t room)
{
    if (kernel.device_gone)
        return -EBADFD;
    if (!file->count)
        return -EAGAIN;
    struct kernel_packet packet = take(file);
    size_t header = file->vnet ? sizeof(packet.vnet) : 0;
    if (packet.error) {
        free(packet.bytes);
        return -packet.error;
    }
    if (packet.length > room - header)
        packet.length = (uint32_t)(room - header);
    if (!file->vnet)
        packet.vnet = (struct vnet_header){0};
    kernel.tun_read(file->number, &packet);
    memcpy(into, &packet.vnet, header);
    memcpy(into + header, packet.bytes, packet.length);
    free(packet.bytes);
    return (ssize_t)(header + packet.length);
}
