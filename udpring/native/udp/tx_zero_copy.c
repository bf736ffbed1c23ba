/* Zero-copy sends (IORING_OP_SENDMSG_ZC, io_uring_enter(2)), if requested.
 *
 * 1. Payloads of UDP_ZERO_COPY_BYTES or more use zero copy (for a train its whole length counts). Below, a copy is cheaper.
 * 2. The first completion has the result. The kernel uses the slot and the payload until the second one, the notification.
 * 3. The notification shows whether the kernel copied after all, as it does for loopback, virtual devices, and devices without
 *    gather. After PAUSE_AFTER copied or refused sends in a row, only every TRY_AGAIN-th send tries zero copy.
 * 4. A refused send is sent again with a copy, in its place. */
#include "../uring/abi.h"
#include "../uring/kernel.h"

#include "tx_tier.h"

#define UDP_ZERO_COPY_BYTES 4096u
#define PAUSE_AFTER 16u
#define TRY_AGAIN 4096u

void udp_tx_zero_copy_open(struct udp_tx *tx, bool wanted)
{
    struct udp_tx_zero_copy *zero_copy = &tx->zero_copy;
    zero_copy->wanted = wanted;
    zero_copy->outcome = UDPRING_ZC_OFF;
    if (!wanted)
        return;
    int found = tx->tier_id == UDPRING_TIER_MMSG ? UDPRING_ZC_UNSUPPORTED : udpring_zero_copy(NULL);
    zero_copy->works = found == UDPRING_ZC_COPIES || found == UDPRING_ZC_TRUE;
    zero_copy->outcome = zero_copy->works ? UDPRING_ZC_UNTRIED : found;
}

bool udp_tx_zero_copy_wants(const struct udp_tx *tx, uint64_t length)
{
    return ur_unlikely(tx->zero_copy.works) && length >= UDP_ZERO_COPY_BYTES;
}

bool udp_tx_zero_copy_takes(struct udp_tx *tx, struct udp_tx_slot *slot)
{
    struct udp_tx_zero_copy *zero_copy = &tx->zero_copy;
    slot->zero_copy = false;
    slot->notified = true;
    if (ur_likely(!zero_copy->works) || slot->plain || slot->length < UDP_ZERO_COPY_BYTES)
        return false;
    if (zero_copy->paused && ++zero_copy->passed % TRY_AGAIN)
        return false;
    slot->zero_copy = true;
    slot->notified = false;
    return true;
}

void udp_tx_zero_copy_notified(struct udp_tx *tx, uint32_t index, int32_t usage)
{
    struct udp_tx_zero_copy *zero_copy = &tx->zero_copy;
    struct udp_tx_slot *slot = udp_tx_slot(tx, index);
    slot->notified = true;
    if (slot->result >= 0) {
        bool copied = (uint32_t)usage & IORING_NOTIF_USAGE_ZC_COPIED;
        tx->stats.zero_copied += copied;
        tx->stats.zero_copy += !copied;
        zero_copy->refused = 0;
        zero_copy->copied = copied ? zero_copy->copied + 1 : 0;
        zero_copy->paused = zero_copy->copied >= PAUSE_AFTER;
        zero_copy->outcome = copied && tx->stats.zero_copy == 0 ? UDPRING_ZC_COPIES : UDPRING_ZC_TRUE;
        if (zero_copy->paused)
            zero_copy->outcome = UDPRING_ZC_COPIES;
    }
    if (slot->ended)
        udp_tx_finish(tx, index);
}

bool udp_tx_zero_copy_refused(struct udp_tx *tx, struct udp_tx_slot *slot, int error)
{
    switch (error) {
    case EINVAL: case EOPNOTSUPP: case EFAULT: case EMSGSIZE:   /* the device, the kernel, or too many pieces */
    case ENOMEM: case ENOBUFS:                                  /* limits of pinned memory (RLIMIT_MEMLOCK, optmem_max) */
        break;
    default:
        return false;
    }
    slot->plain = true;
    tx->stats.zero_copy_refused++;
    if (++tx->zero_copy.refused >= PAUSE_AFTER) {
        tx->zero_copy.paused = true;
        tx->zero_copy.outcome = UDPRING_ZC_UNSUPPORTED;
    }
    return true;
}
