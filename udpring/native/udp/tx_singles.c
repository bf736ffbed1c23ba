#include "tx_singles.h"

#include "socket.h"
#include "tx_tier.h"

bool udp_tx_singles_add(const struct udp_tx *tx, struct udp_tx_singles *singles, const uint8_t *data, uint64_t length,
                        const struct udpring_address *to)
{
    uint32_t at = singles->count;
    if (at == UDP_TX_SINGLES || length > UDP_TX_LENGTH_MAX || udp_tx_zero_copy_wants(tx, length))
        return false;
    struct msghdr *header = &singles->header[at].msg_hdr;
    *header = (struct msghdr){.msg_iov = &singles->piece[at], .msg_iovlen = 1};
    if (to && to->family) {
        header->msg_name = &singles->name[at];
        header->msg_namelen = udp_address_to_sockaddr(to, tx->family[0], (struct sockaddr_storage *)(void *)&singles->name[at]);
        if (!header->msg_namelen)
            return false;
    }
    singles->piece[at] = (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = length};
    singles->count++;
    return true;
}

/* Counts a datagram that the kernel took. A partial send must not count as success. */
static void end_single(struct udp_tx_singles *singles, uint32_t at, struct udp_tx_direct *direct)
{
    uint64_t length = singles->piece[at].iov_len;
    if (ur_unlikely(singles->header[at].msg_len != length)) {
        singles->result[at] = -EIO;
        udp_tx_count_error(&direct->stats, EIO, 1);
        return;
    }
    singles->result[at] = 0;
    direct->stats.packets++;
    direct->stats.bytes += length;
    direct->charge += udp_tx_charge(length, 1);
}

uint32_t udp_tx_send_singles(const struct udp_tx *tx, struct udp_tx_singles *singles, struct udp_tx_direct *direct)
{
    uint32_t at = 0;
    while (at < singles->count) {
        int sent = sendmmsg(tx->fd[0], singles->header + at, singles->count - at, UDP_TX_FLAGS);
        int error = sent < 0 ? errno : 0;
        if (ur_unlikely(udp_tx_must_queue(error) || !sent))
            break;
        direct->stats.submits++;
        for (int i = 0; i < sent; i++)
            end_single(singles, at++, direct);
        if (ur_unlikely(error)) {   /* it is about the first message of the call */
            singles->result[at++] = -error;
            udp_tx_count_error(&direct->stats, error, 1);
        }
    }
    return at;
}
