/* How all tiers handle a received message, or an error of a receive. */
#include "../base.h"

#include <linux/sock_diag.h>
#include <sys/socket.h>

#include "cmsg.h"
#include "rx_tier.h"
#include "socket.h"

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

#define REFUSALS_MOST 65536u   /* in a row, without a datagram in between */

/* ICMP causes such errors (administratively prohibited, source route failed). But a host may also refuse a socket with them. */
static bool refused_for_ever(struct udp_rx *rx, int error)
{
    if (error != EACCES && error != EOPNOTSUPP)
        return false;
    if (rx->refused.packets != rx->stats.packets)
        rx->refused.count = 0;
    rx->refused.packets = rx->stats.packets;
    return ++rx->refused.count >= REFUSALS_MOST;
}

enum udp_rx_error udp_rx_fail(struct udp_rx *rx, int error)
{
    if (ur_unlikely(refused_for_ever(rx, error))) {
        rx->fatal = -error;
        return UDP_RX_FATAL;
    }
    switch (error) {
    case EAGAIN: case EINTR: case ENOMEM: case ENOBUFS:
        rx->stats.transient_errors++;
        return UDP_RX_TRANSIENT;
    case EBADF: case ENOTSOCK: case EFAULT: case EINVAL: case ESHUTDOWN: case ENOSYS:
        rx->fatal = -error;
        return UDP_RX_FATAL;
    default:   /* ICMP errors: one event each. Reading it clears it */
        rx->stats.icmp_errors++;
        udp_rx_keep_error(rx, error);
        return UDP_RX_ICMP;
    }
}

unsigned udp_rx_drain_errors(int fd)
{
    unsigned count = 0;
    for (; count < UDP_RX_ERRORS_A_PASS; count++) {
        uint8_t control[256], byte;
        /* Without a vector qemu-user returns 0 and leaves the error in the queue. */
        struct iovec vector = {&byte, sizeof(byte)};
        struct msghdr header = {
            .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
        if (recvmsg(fd, &header, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
            break;
    }
    return count;
}

void udp_rx_drain_reported(struct udp_rx *rx, int fd)
{
    unsigned queued = udp_rx_drain_errors(fd);
    rx->stats.icmp_errors += queued > 1 ? queued - 1 : 0;
}

/* A datagram carries the socket's drop count as of its queueing, which may be less than a count seen already. */
static void count_drops(struct udp_rx *rx, uint32_t *known, uint32_t drops)
{
    uint32_t more = drops - *known;
    if (ur_unlikely((int32_t)more > 0)) {
        rx->stats.kernel_drops += more;
        *known = drops;
    }
}

/* False: this kernel's answer lacks the drops, its last part. */
static bool memory_of(int fd, uint32_t memory[SK_MEMINFO_VARS])
{
    socklen_t length = SK_MEMINFO_VARS * sizeof(*memory);
    return getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &length) == 0 &&
           length > SK_MEMINFO_DROPS * sizeof(*memory);
}

uint32_t udp_rx_drops_of(int fd)
{
    uint32_t memory[SK_MEMINFO_VARS];
    return memory_of(fd, memory) ? memory[SK_MEMINFO_DROPS] : 0;
}

void udp_rx_see_drops(struct udp_rx *rx)
{
    uint32_t memory[SK_MEMINFO_VARS];
    for (uint32_t socket = 0; socket < rx->sockets; socket++)
        if (memory_of(rx->fd[socket], memory))
            count_drops(rx, &rx->drops[socket], memory[SK_MEMINFO_DROPS]);
}

void udp_rx_queues(const struct udp_rx *rx, uint64_t *bytes, uint64_t *limit)
{
    uint32_t memory[SK_MEMINFO_VARS];
    for (uint32_t socket = 0; socket < rx->sockets; socket++)
        if (memory_of(rx->fd[socket], memory)) {
            *bytes += memory[SK_MEMINFO_RMEM_ALLOC];
            *limit += memory[SK_MEMINFO_RCVBUF];
        }
}

void udp_rx_deliver(struct udp_rx *rx, struct udpring_packet *packet, uint32_t slot, uint8_t *data, uint32_t length,
                    const struct udp_rx_message *message)
{
    if (ur_unlikely(length > rx->slot_bytes))
        length = rx->slot_bytes;   /* a packet never exceeds its slot, whatever length the kernel reports */
    packet->data = data;
    packet->length = length;
    packet->segment_size = 0;
    packet->slot = slot;
    packet->interface_index = 0;
    packet->flags = 0;
    packet->tos = 0;
    packet->timestamp = 0;
    packet->socket_index = message->socket;
    if (!udp_address_from_sockaddr(message->name, message->name_length, &packet->source))
        memset(&packet->source, 0, sizeof(packet->source));
    memset(&packet->local, 0, sizeof(packet->local));
    uint32_t drops = *message->drops;
    udp_cmsg_parse(message->control, message->control_length, packet, &drops);
    rx->held[slot] = 1;

    struct udpring_rx_stats *stats = &rx->stats;
    stats->packets++;
    stats->bytes += length;
    if (packet->segment_size) {
        if (packet->segment_size < length) {
            stats->trains++;
            stats->packets += (length - 1) / packet->segment_size;   /* count datagrams, as SO_RXQ_OVFL does */
        } else {
            packet->segment_size = 0;   /* the kernel also reports a size for a train of one */
        }
    }
    count_drops(rx, message->drops, drops);
    if (ur_unlikely(message->flags & (MSG_TRUNC | MSG_CTRUNC))) {
        if (message->flags & MSG_TRUNC) {
            packet->flags |= UDPRING_PACKET_TRUNCATED;
            stats->truncated++;
        }
        if (message->flags & MSG_CTRUNC) {
            packet->flags |= UDPRING_PACKET_CONTROL_TRUNCATED;
            stats->control_truncated++;
        }
    }
    if (ur_unlikely(!length))
        stats->zero_length++;
}

void udp_rx_keep_error(struct udp_rx *rx, int error)
{
    if (rx->icmp.count == UDP_RX_ERRORS)
        rx->icmp.head++;
    else
        rx->icmp.count++;
    rx->icmp.code[(rx->icmp.head + rx->icmp.count - 1) % UDP_RX_ERRORS] = error;
}

void udp_rx_look(struct udp_rx *rx)
{
    rx->look = true;
}
