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
    /* Not the files, which open() resets, because their queues are large. */
    memset((uint8_t *)&kernel + offsetof(struct kernel, mtu), 0, sizeof(kernel) - offsetof(struct kernel, mtu));
    kernel.was_full = false;
    kernel.random = 0x9e3779b97f4a7c15u;
    kernel.segments = 64;
}

bool kernel_put(struct kernel_file *file, const struct kernel_packet *packet)
{
    if (!file || file->count == KERNEL_QUEUE) {
        if (file)
            file->drops++;
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

int kernel_fault(bool memory)
{
    if (!kernel.active || kernel.fault_held || !kernel.fault.after || (kernel.fault.memory_only && !memory) || --kernel.fault.after)
        return 0;
    kernel.fault.hit = true;
    kernel.fault.after = kernel.fault_stays;
    return kernel.fault.error;
}

int kernel_fault_wide(void)
{
    return kernel.fault_wide ? kernel_fault(false) : 0;
}

static bool any_watched(const struct kernel_file *file)
{
    for (uint32_t i = 0; i < KERNEL_WATCHED; i++) {
        const struct kernel_file *each = kernel_file(file->watched[i].fd);
        if (each && each->serial == file->watched[i].serial && kernel_events(each, file->watched[i].events))
            return true;
    }
    return false;
}

short kernel_events(const struct kernel_file *file, short wanted)
{
    if (!file)
        return 0x20;   /* POLLNVAL */
    short there = 0;
    if (file->kind == KERNEL_EPOLL)
        return any_watched(file) ? wanted & 1 : 0;
    if (file->error || file->errors)
        there |= 8;    /* POLLERR */
    if (file->shut)
        there |= 0x2001;   /* POLLRDHUP, POLLIN */
    if (file->kind == KERNEL_EVENT ? file->event != 0 : file->count || file->overrun || (file->kind == KERNEL_TUN && kernel.device_gone))
        there |= 1;    /* POLLIN */
    if (file->kind != KERNEL_UDP || (!file->full && !(file->room && file->charged >= file->room)))
        there |= 4;    /* POLLOUT */
    return there & (wanted | 8);
}

static struct kernel_packet take(struct kernel_file *file)
{
    struct kernel_packet packet = file->queue[file->head];
    file->head = (file->head + 1) % KERNEL_QUEUE;
    file->count--;
    return packet;
}

/* Appends one message of ancillary data if there is room. */
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
    if (packet->drops)
        used = put_control(header, used, SOL_SOCKET, SO_RXQ_OVFL, &packet->drops, sizeof(packet->drops));
    if (packet->time_ns) {
        struct timespec time = {(time_t)(packet->time_ns / 1000000000u), (long)(packet->time_ns % 1000000000u)};
        used = put_control(header, used, SOL_SOCKET, SO_TIMESTAMPNS, &time, sizeof(time));
    }
    header->msg_controllen = used;
}

ssize_t kernel_receive(int fd, struct msghdr *header)
{
    struct kernel_file *file = kernel_file(fd);
    if (!file || file->kind != KERNEL_UDP)
        return -EBADF;
    if (file->error) {
        int error = file->error;
        file->error = 0;
        return -error;
    }
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
            send->source.family = IN6_IS_ADDR_UNSPECIFIED(&info.ipi6_addr) ? 0 : AF_INET6;
            memcpy(send->source.ip, &info.ipi6_addr, 16);
            send->interface_index = info.ipi6_ifindex;
        } else if ((at->cmsg_level == SOL_IP && at->cmsg_type == IP_TTL) ||
                   (at->cmsg_level == SOL_IPV6 && at->cmsg_type == IPV6_HOPLIMIT)) {
            memcpy(&send->ttl, data, sizeof(send->ttl));
        } else {
            memcpy(&send->tos, data, sizeof(send->tos));
        }
    }
}

int32_t kernel_send(int fd, const struct msghdr *header, bool zero_copy)
{
    struct kernel_file *file = kernel_file(fd);
    if (!file || file->kind != KERNEL_UDP)
        return -EBADF;
    if (file->full || (file->room && file->charged >= file->room)) {
        kernel.was_full = true;
        return -EAGAIN;
    }
    struct kernel_send send = {.fd = fd, .message = header, .destination = file->peer, .tos = -1, .ttl = -1, .zero_copy = zero_copy};
    const struct sockaddr *name = header->msg_name;
    if (file->reused && !name)
        return -EDESTADDRREQ;
    CLAIM(name ? udp_address_from_sockaddr(header->msg_name, header->msg_namelen, &send.destination) : file->peer.family != 0,
          "a message to nobody");
    CLAIM(!name || name->sa_family == file->family, "an address of family %u on a socket of family %d", name->sa_family,
          file->family);
    for (size_t i = 0; i < header->msg_iovlen; i++)
        send.length += (uint32_t)header->msg_iov[i].iov_len;
    read_control(&send, header);
    if (send.length > (file->family == AF_INET ? 65507u : 65527u))
        return -EMSGSIZE;
    uint32_t datagrams = send.segment ? (send.length + send.segment - 1) / send.segment : 1;
    if (datagrams > kernel.segments)
        return -EINVAL;
    int32_t sent = kernel.send(&send);
    if (sent >= 0 && file->room)
        file->charged += send.length + kernel.charge * datagrams;
    return sent;
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
