/* Sending without the queues: one datagram of the owner, or many datagrams by several threads at once, the helpers of a batch
 * (send_fan.c). Items that cannot be sent at once are left to the queues, which retry, split and report in order. */
#include "socket.h"
#include "tx_tier.h"

int udp_tx_send_direct(const struct udp_tx *tx, const struct udp_tx_item *item, struct udp_tx_direct *direct)
{
    UR_UNINITIALIZED struct udp_tx_slot slot;
    if (udp_tx_check(tx, item) || udp_tx_zero_copy_wants(tx, item->length))
        return UDP_TX_LEFT;
    udp_tx_lay_out(tx, &slot, item);
    ssize_t sent = sendmsg(tx->fd[item->socket_index], &slot.header, UDP_TX_FLAGS);
    int error = sent < 0 ? errno : 0;
    direct->stats.submits++;
    if (ur_unlikely(error == EAGAIN || error == ENOBUFS || udp_tx_fatal(-error)))
        return UDP_TX_FULL;
    if (ur_unlikely(error == EINTR || (error && slot.segment_size)))
        return UDP_TX_LEFT;
    if (!error && (size_t)sent != item->length)
        error = EIO;   /* the kernel sends whole datagrams only. A partial send must not count as success */
    if (ur_unlikely(error)) {
        udp_tx_count_error(&direct->stats, error, udp_tx_datagrams(&slot));
        return -error;
    }
    uint32_t datagrams = udp_tx_datagrams(&slot);
    direct->stats.packets += datagrams;
    direct->stats.bytes += item->length;
    direct->stats.trains += slot.segment_size != 0;
    direct->charge += udp_tx_charge(item->length, datagrams);
    return 0;
}

bool udp_tx_idle(const struct udp_tx *tx)
{
    return tx->free_count == tx->slots.count;
}

void udp_tx_count_direct(struct udp_tx *tx, struct udp_tx_direct *direct)
{
    uint64_t *sum = (uint64_t *)&tx->stats;
    const uint64_t *more = (const uint64_t *)&direct->stats;
    for (size_t i = 0; i < sizeof(tx->stats) / sizeof(*sum); i++)
        sum[i] += more[i];
    tx->direct_charge += direct->charge;
    *direct = (struct udp_tx_direct){0};
}

static int send_to(int fd, uint8_t family, const uint8_t *data, uint64_t length, const struct udpring_address *to)
{
    UR_UNINITIALIZED struct sockaddr_storage name;
    socklen_t name_length = 0;
    if (to && to->family) {
        if (to->family != AF_INET && (to->family != AF_INET6 || family != AF_INET6))
            return 1;
        name_length = udp_address_to_sockaddr(to, family, &name);
    }
    ssize_t sent = sendto(fd, data, length, UDP_TX_FLAGS, name_length ? (struct sockaddr *)&name : NULL, name_length);
    int error = sent < 0 ? errno : 0;
    if (udp_tx_must_queue(error))
        return 1;
    return !error && (uint64_t)sent != length ? -EIO : -error;
}

int32_t udpring_send_alone(int32_t fd, int32_t ipv6, const uint8_t *data, uint64_t length, const uint8_t *address)
{
    struct udpring_address to;
    if (address)
        memcpy(&to, address, sizeof(to));
    return length > UDP_TX_LENGTH_MAX ? 1 : send_to(fd, ipv6 ? AF_INET6 : AF_INET, data, length, address ? &to : NULL);
}

int32_t udpring_answer(const struct udpring_alone *alone, int32_t fd, const uint8_t *data, uint64_t length)
{
    const struct udpring_address *to = alone->connected ? NULL : &alone->source;
    return length > UDP_TX_LENGTH_MAX ? 1 : send_to(fd, alone->ipv6 ? AF_INET6 : AF_INET, data, length, to);
}

int udp_tx_send_now(struct udp_tx *tx, const uint8_t *data, uint64_t length, const struct udpring_address *to)
{
    if (!udp_tx_idle(tx) || length > UDP_TX_LENGTH_MAX || udp_tx_zero_copy_wants(tx, length))
        return 1;
    int code = send_to(tx->fd[0], tx->family[0], data, length, to);
    if (code > 0)
        return code;
    tx->stats.submits++;
    if (code) {
        udp_tx_count_error(&tx->stats, -code, 1);
        return code;
    }
    tx->stats.packets++;
    tx->stats.bytes += length;
    tx->direct_charge += udp_tx_charge(length, 1);
    return 0;
}
