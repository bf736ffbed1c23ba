/* One send: builds its message and evaluates its result. */
#include "socket.h"
#include "tx_tier.h"

#define NO_BUFFER_TRIES 8          /* no POLLOUT follows ENOBUFS, so the packet is given up after this many tries */

void udp_tx_end(struct udp_tx *tx, uint32_t index, int32_t result)
{
    struct udp_tx_slot *slot = udp_tx_slot(tx, index);
    slot->result = result;
    slot->ended = true;
    if (ur_likely(slot->notified))
        udp_tx_finish(tx, index);
}

void udp_tx_count_error(struct udpring_tx_stats *stats, int error, uint32_t datagrams)
{
    switch (error) {
    case ENETUNREACH: case EHOSTUNREACH: case ENETDOWN: case EHOSTDOWN: case EADDRNOTAVAIL:
        stats->unreachable += datagrams;
        break;
    case ECONNREFUSED: stats->refused += datagrams; break;
    case EPERM: case EACCES: stats->denied += datagrams; break;
    case EMSGSIZE: stats->too_big += datagrams; break;
    case ENOBUFS: case ENOMEM: stats->no_buffers += datagrams; break;
    default: stats->other_errors += datagrams; break;
    }
}

/* The errors of the kernel when the sticky source or its interface no longer exists. */
static bool blames_source(int error)
{
    return error == EINVAL || error == ENODEV || error == EADDRNOTAVAIL || error == ENETUNREACH;
}

enum udp_tx_verdict udp_tx_take_result(struct udp_tx *tx, uint32_t index, int32_t result)
{
    struct udp_tx_slot *slot = udp_tx_slot(tx, index);
    if (ur_unlikely(result >= 0 && (uint32_t)result != slot->length))
        result = -EIO;   /* the kernel sends whole datagrams only. A partial send must not count as success */
    if (ur_likely(result >= 0)) {
        tx->stats.packets += udp_tx_datagrams(slot);
        tx->stats.bytes += (uint32_t)result;
        tx->stats.trains += slot->segment_size != 0;
        udp_tx_end(tx, index, result);
        return UDP_TX_ENDED;
    }
    int error = ur_errno(result);
    if (error == EINTR || error == ECANCELED)
        return UDP_TX_RESEND;
    if (error == EAGAIN || (error == ENOBUFS && !slot->zero_copy && slot->tries < NO_BUFFER_TRIES)) {
        slot->tries += error == ENOBUFS;
        tx->stats.requeued++;
        return UDP_TX_PARK;
    }
    if (ur_unlikely(slot->zero_copy) && udp_tx_zero_copy_refused(tx, slot, error))
        return UDP_TX_RESEND;
    if (blames_source(error) && !slot->source_strict && slot->header.msg_controllen > slot->plain_control) {
        slot->header.msg_controllen = slot->plain_control;
        if (!slot->plain_control)
            slot->header.msg_control = NULL;
        slot->flags |= UDP_TX_SOURCE_DROPPED;
        tx->stats.source_dropped++;
        return UDP_TX_RESEND;
    }
    if (slot->segment_size && (error == EMSGSIZE || error == EIO || error == EINVAL))
        slot->flags |= UDP_TX_SPLIT;
    if (slot->flags & UDP_TX_SPLIT)
        tx->stats.split++;
    else
        udp_tx_count_error(&tx->stats, error, udp_tx_datagrams(slot));
    udp_tx_end(tx, index, -error);
    return UDP_TX_ENDED;
}

int udp_tx_check(const struct udp_tx *tx, const struct udp_tx_item *item)
{
    if (item->socket_index >= tx->sockets)
        return -EINVAL;
    if (item->length > UDP_TX_LENGTH_MAX)
        return -EMSGSIZE;
    if (item->segment_size &&
        (item->segment_size > UINT16_MAX || item->length > (uint64_t)item->segment_size * udp_tx_segments_max()))
        return -EINVAL;
    if (item->destination.family && item->destination.family != AF_INET && item->destination.family != AF_INET6)
        return -EAFNOSUPPORT;
    if (item->destination.family == AF_INET6 && tx->family[item->socket_index] != AF_INET6)
        return -EAFNOSUPPORT;
    return 0;
}

void udp_tx_lay_out(const struct udp_tx *tx, struct udp_tx_slot *slot, const struct udp_tx_item *item)
{
    int family = item->destination.family ? item->destination.family : tx->wire_family[item->socket_index];
    bool train = item->segment_size && item->segment_size < item->length;   /* kernels refuse a train of one */
    size_t plain;
    size_t control = udp_cmsg_build(slot->control, item, family, train, &plain);
    slot->iov = (struct iovec){.iov_base = (void *)(uintptr_t)item->data, .iov_len = item->length};
    slot->header = (struct msghdr){.msg_iov = &slot->iov, .msg_iovlen = 1};
    if (item->vector) {
        slot->header.msg_iov = (struct iovec *)(uintptr_t)item->vector;   /* only read */
        slot->header.msg_iovlen = item->vector_count;
    }
    if (item->destination.family) {
        slot->header.msg_name = &slot->name;
        slot->header.msg_namelen =
            udp_address_to_sockaddr(&item->destination, tx->family[item->socket_index], &slot->name.any);
    }
    if (control) {
        slot->header.msg_control = slot->control;
        slot->header.msg_controllen = control;
    }
    slot->token = item->token;
    slot->length = item->length;
    slot->source_strict = item->flags & UDP_TX_SOURCE_STRICT;
    slot->segment_size = train ? item->segment_size : 0;
    slot->plain_control = (uint16_t)plain;
    slot->socket = item->socket_index;
    slot->tries = slot->flags = 0;
    slot->plain = slot->zero_copy = slot->ended = false;
    slot->notified = true;
}
