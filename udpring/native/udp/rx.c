#include "rx.h"

#include <linux/sock_diag.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "../uring/graveyard.h"
#include "../uring/thread.h"
#include "cmsg.h"
#include "rx_tier.h"
#include "socket.h"

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif

#define REFUSALS_MOST 65536u   /* in a row, and no datagram among them */

static const struct udp_rx_tier *const tiers[] = {
    [UDPRING_TIER_URING_MULTISHOT] = &udp_rx_multishot,
    [UDPRING_TIER_URING_POOL] = &udp_rx_pool,
    [UDPRING_TIER_MMSG] = &udp_rx_mmsg,
};

/* ICMP brings such errors (administratively prohibited, source route failed), but a host may refuse a socket so, too. */
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
    default:   /* what ICMP brings: one event each, taken off the socket by reading it */
        rx->stats.icmp_errors++;
        udp_rx_keep_error(rx, error);
        return UDP_RX_ICMP;
    }
}

unsigned udp_rx_drain_errors(int fd)
{
    unsigned count = 0;
    for (; count < UDP_RX_ERRORS_A_PASS; count++) {
        uint8_t control[256];
        struct msghdr header = {.msg_control = control, .msg_controllen = sizeof(control)};
        if (recvmsg(fd, &header, MSG_ERRQUEUE | MSG_DONTWAIT) < 0)
            break;
    }
    return count;
}

void udp_rx_drain_told(struct udp_rx *rx, int fd)
{
    unsigned queued = udp_rx_drain_errors(fd);
    rx->stats.icmp_errors += queued > 1 ? queued - 1 : 0;
}

/* A datagram tells the socket's count of when it was queued: that may be less than is known already. */
static void count_drops(struct udp_rx *rx, uint32_t socket, uint32_t drops)
{
    uint32_t more = drops - rx->drops[socket];
    if (ur_unlikely((int32_t)more > 0)) {
        rx->stats.kernel_drops += more;
        rx->drops[socket] = drops;
    }
}

void udp_rx_see_drops(struct udp_rx *rx)
{
    for (uint32_t socket = 0; socket < rx->sockets; socket++) {
        uint32_t memory[SK_MEMINFO_VARS];
        socklen_t length = sizeof(memory);
        if (getsockopt(rx->fd[socket], SOL_SOCKET, SO_MEMINFO, memory, &length) == 0 &&
            length > SK_MEMINFO_DROPS * sizeof(*memory))
            count_drops(rx, socket, memory[SK_MEMINFO_DROPS]);
    }
}

void udp_rx_deliver(struct udp_rx *rx, struct udpring_packet *packet, uint32_t slot, uint8_t *data, uint32_t length,
                    const struct udp_rx_message *message)
{
    uint32_t socket = slot >= rx->per_socket;
    if (ur_unlikely(length > rx->slot_bytes))
        length = rx->slot_bytes;   /* whatever the kernel says, a packet ends with its slot */
    packet->data = data;
    packet->length = length;
    packet->segment_size = 0;
    packet->slot = slot;
    packet->interface_index = 0;
    packet->flags = 0;
    packet->tos = 0;
    packet->timestamp = 0;
    packet->socket_index = (uint8_t)socket;
    if (!udp_address_from_sockaddr(message->name, message->name_length, &packet->source))
        memset(&packet->source, 0, sizeof(packet->source));
    memset(&packet->local, 0, sizeof(packet->local));
    uint32_t drops = rx->drops[socket];
    udp_cmsg_parse(message->control, message->control_length, packet, &drops);
    rx->held[slot] = 1;

    struct udpring_rx_stats *stats = &rx->stats;
    stats->packets++;
    stats->bytes += length;
    if (packet->segment_size) {
        if (packet->segment_size < length) {
            stats->trains++;
            stats->packets += (length - 1) / packet->segment_size;   /* counted as SO_RXQ_OVFL counts them: datagrams */
        } else {
            packet->segment_size = 0;   /* the kernel tells the size of a train of one, too */
        }
    }
    count_drops(rx, socket, drops);
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

static int check_options(const struct udp_rx_options *options, struct udpring_reason *why)
{
    if (options->sockets < 1 || options->sockets > UDP_RX_SOCKETS_MAX)
        return ur_fail(why, -EINVAL, "%u sockets given to a receive ring: 1 or 2", options->sockets);
    if (options->slots > UDP_RX_SLOTS_MAX)
        return ur_fail(why, -EINVAL, "%u receive buffers a socket: at most %d", options->slots, UDP_RX_SLOTS_MAX);
    if (options->slot_bytes > UDP_RX_SLOT_BYTES_MAX)
        return ur_fail(why, -EINVAL, "receive buffers of %u bytes: at most %d, no datagram is longer", options->slot_bytes,
                       UDP_RX_SLOT_BYTES_MAX);
    if (options->cq_entries > UDP_RX_CQ_ENTRIES_MAX)
        return ur_fail(why, -EINVAL, "a completion queue of %u entries: at most %d", options->cq_entries,
                       UDP_RX_CQ_ENTRIES_MAX);
    return 0;
}

static int switch_options_on(struct udp_rx *rx, const struct udp_rx_options *options, struct udpring_reason *why)
{
    for (uint32_t i = 0; i < rx->sockets; i++) {
        int code = options->gro ? udp_switch_on(rx->fd[i], SOL_UDP, UDP_GRO, &rx->gro[i]) : 0;
        if (code && !options->gro_may_fail)
            return ur_fail(why, code, "UDP_GRO cannot be switched on (kernel 5.0 or newer): %s", strerror(-code));
        code = options->timestamps ? udp_switch_on(rx->fd[i], SOL_SOCKET, SO_TIMESTAMPNS, &rx->timestamps[i]) : 0;
        if (code)
            return ur_fail(why, code, "SO_TIMESTAMPNS cannot be switched on: %s", strerror(-code));
    }
    return 0;
}

static void switch_options_off(const struct udp_rx *rx)
{
    for (uint32_t i = 0; i < rx->sockets; i++) {
        udp_switch_off(rx->fd[i], rx->gro[i]);
        udp_switch_off(rx->fd[i], rx->timestamps[i]);
    }
}

static int open_tier(struct udp_rx **opened, uint32_t id, const struct udp_rx_options *options, struct udpring_reason *why)
{
    const struct udp_rx_tier *tier = id < UR_ARRAY_LENGTH(tiers) ? tiers[id] : NULL;
    if (!tier)
        return ur_fail(why, -ENOSYS, "this build has no tier %s", udpring_tier_name(id));
    struct udp_rx *rx = calloc(1, tier->bytes);
    if (!rx)
        return ur_fail(why, -ENOMEM, "no memory for a receive ring");
    rx->tier = tier;
    rx->sockets = options->sockets;
    rx->pollable = options->pollable;
    rx->per_socket = options->slots ? options->slots : UDP_RX_SLOTS_DEFAULT;
    rx->slot_bytes = options->slot_bytes ? options->slot_bytes : UDP_RX_SLOT_BYTES_DEFAULT;
    for (uint32_t i = 0; i < rx->sockets; i++)
        rx->fd[i] = options->fd[i];
    uint32_t count = rx->sockets * rx->per_socket;
    rx->held = calloc(count, 1);
    int code = ur_fork_watch();
    rx->forks = ur_fork_count();
    if (!code)
        code = rx->held ? udp_slots_map(&rx->slots, count, tier->header_bytes, rx->slot_bytes) : -ENOMEM;
    if (code)
        ur_fail(why, code, "no memory for %u receive buffers of %u bytes: %s", count, rx->slot_bytes, strerror(-code));
    else if (options->secret)
        udp_slots_wipe_on_fork(&rx->slots);
    rx->cq_entries = options->cq_entries;
    if (!code)
        code = switch_options_on(rx, options, why);
    if (!code)
        code = tier->open(rx, why);
    if (code) {
        udp_rx_close(rx);
        return code;
    }
    *opened = rx;
    return 0;
}

int udp_rx_open(struct udp_rx **rx, const struct udp_rx_options *options, struct udpring_reason *why)
{
    *rx = NULL;
    int code = check_options(options, why);
    int wanted = code ? code : udp_tier_wanted(options->tier, why);
    if (wanted != UDPRING_TIER_AUTO)
        return wanted < 0 ? wanted : open_tier(rx, (uint32_t)wanted, options, why);
    char reasons[UDP_TIER_REASON_BYTES] = "";
    for (uint32_t id = UDPRING_TIER_URING_MULTISHOT; id <= UDPRING_TIER_MMSG; id++) {
        struct udpring_reason here = {""};
        code = udp_tier_works(id, &here);
        if (!code)
            code = open_tier(rx, id, options, &here);
        if (!code) {
            memcpy((*rx)->reason, reasons, sizeof(reasons));
            return 0;
        }
        udp_tier_note(reasons, id, &here);
        if (why)
            *why = here;
    }
    return code;
}

bool udp_rx_close_keeping_slots(struct udp_rx *rx, struct udp_slots *slots)
{
    struct udp_slots kept = rx->slots;
    bool ended = rx->tier->close(rx);
    if (!ended) {
        ur_graveyard_leak(kept.base, kept.bytes);
        kept = (struct udp_slots){0};
    }
    if (rx->forks == ur_fork_count())
        switch_options_off(rx);
    free(rx->held);
    free(rx);
    *slots = kept;
    return ended;
}

bool udp_rx_close(struct udp_rx *rx)
{
    if (!rx)
        return true;
    struct udp_slots slots;
    bool ended = udp_rx_close_keeping_slots(rx, &slots);
    udp_slots_unmap(&slots);
    return ended;
}

uint32_t udp_rx_tier(const struct udp_rx *rx)
{
    return rx->tier->id;
}

const char *udp_rx_tier_reason(const struct udp_rx *rx)
{
    return rx->reason;
}

int udp_rx_wait(struct udp_rx *rx, int64_t timeout_ns)
{
    if (ur_unlikely(rx->fatal))
        return rx->fatal;
    int code = rx->tier->wait(rx, timeout_ns);
    rx->stats.wakeups += code == 0;
    return code;
}

bool udp_rx_short(const struct udp_rx *rx)
{
    return rx->short_of_memory;
}

void udp_rx_told(struct udp_rx *rx)
{
    if (rx->tier->told)
        rx->tier->told(rx);
}

unsigned udp_rx_harvest(struct udp_rx *rx, struct udpring_packet *packets, unsigned max)
{
    return rx->tier->harvest(rx, packets, max);
}

void udp_rx_release(struct udp_rx *rx, uint32_t slot)
{
    if (ur_unlikely(slot >= rx->slots.count || !rx->held[slot])) {
        rx->stats.stale++;   /* given back twice: the second time it may be the kernel's again */
        return;
    }
    rx->held[slot] = 0;
    rx->tier->release(rx, slot);
}

const struct udpring_rx_stats *udp_rx_stats(const struct udp_rx *rx)
{
    return &rx->stats;
}

int udp_rx_pollable(struct udp_rx *rx, int event)
{
    return rx->tier->pollable(rx, event);
}

bool udp_rx_rest(struct udp_rx *rx)
{
    return rx->tier->rest(rx);
}

bool udp_rx_pending(const struct udp_rx *rx)
{
    return rx->fatal || rx->watched || rx->tier->pending(rx);
}

void udp_rx_keep_error(struct udp_rx *rx, int error)
{
    if (rx->icmp.count == UDP_RX_ERRORS)
        rx->icmp.head++;
    else
        rx->icmp.count++;
    rx->icmp.code[(rx->icmp.head + rx->icmp.count - 1) % UDP_RX_ERRORS] = error;
}

int udp_rx_icmp_error(struct udp_rx *rx)
{
    if (!rx->icmp.count)
        return 0;
    rx->icmp.count--;
    return rx->icmp.code[rx->icmp.head++ % UDP_RX_ERRORS];
}

int udp_rx_watch(struct udp_rx *rx, int fd, uint32_t events, uint32_t token)
{
    if (token >= UDP_RX_WATCHES || fd < 0)
        return -EINVAL;
    return rx->tier->watch(rx, fd, events, token);
}

uint32_t udp_rx_watched(struct udp_rx *rx)
{
    uint32_t fired = rx->watched;
    rx->watched = 0;
    return fired;
}
