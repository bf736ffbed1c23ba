/* Sending past the queues, by several threads at once: for helpers of a batch (send_fan.c). What cannot simply go is left to
 * the queues, whose policy then tries again, splits and judges in order. */
#include "tx_tier.h"

int udp_tx_send_beside(const struct udp_tx *tx, const struct udp_tx_item *item, struct udp_tx_beside *beside)
{
    struct udp_tx_slot slot;
    if (udp_tx_check(tx, item) || udp_tx_zero_copy_wants(tx, item->length))
        return UDP_TX_LEFT;
    udp_tx_lay_out(tx, &slot, item);
    ssize_t sent = sendmsg(tx->fd[item->socket_index], &slot.header, UDP_TX_FLAGS);
    int error = sent < 0 ? errno : 0;
    beside->stats.submits++;
    if (ur_unlikely(error == EAGAIN || error == ENOBUFS || udp_tx_fatal(-error)))
        return UDP_TX_FULL;
    if (ur_unlikely(error == EINTR || (error && slot.segment_size)))
        return UDP_TX_LEFT;
    if (!error && (size_t)sent != item->length)
        error = EIO;   /* a datagram goes whole or not at all; anything else must not pass for success */
    if (ur_unlikely(error)) {
        udp_tx_count_error(&beside->stats, error, udp_tx_datagrams(&slot));
        return -error;
    }
    uint32_t datagrams = udp_tx_datagrams(&slot);
    beside->stats.packets += datagrams;
    beside->stats.bytes += item->length;
    beside->stats.trains += slot.segment_size != 0;
    beside->charge += udp_tx_charge(item->length, datagrams);
    return 0;
}

bool udp_tx_rests(const struct udp_tx *tx)
{
    return tx->free_count == tx->slots.count;
}

void udp_tx_count_beside(struct udp_tx *tx, struct udp_tx_beside *beside)
{
    uint64_t *sum = (uint64_t *)&tx->stats;
    const uint64_t *more = (const uint64_t *)&beside->stats;
    for (size_t i = 0; i < sizeof(tx->stats) / sizeof(*sum); i++)
        sum[i] += more[i];
    tx->aside += beside->charge;
    *beside = (struct udp_tx_beside){0};
}
