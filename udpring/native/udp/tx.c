#include "tx.h"

#include <stdlib.h>

#include "../uring/graveyard.h"
#include "socket.h"
#include "tx_tier.h"

#define LENGTH_MAX 65527           /* an IPv6 payload less the UDP header; IPv4's 65507 is checked by the kernel */
#define NO_BUFFER_TRIES 8          /* ENOBUFS is not followed by POLLOUT: after so many tries the packet is given up */

static const struct udp_tx_tier *const tiers[] = {
    [UDPRING_TIER_URING_MULTISHOT] = &udp_tx_uring,
    [UDPRING_TIER_URING_POOL] = &udp_tx_uring,
    [UDPRING_TIER_MMSG] = &udp_tx_mmsg,
};

void udp_tx_finish(struct udp_tx *tx, uint32_t slot)
{
    tx->done[(tx->done_head + tx->done_count++) & (tx->capacity - 1)] = slot;
}

static void end(struct udp_tx *tx, uint32_t index, int32_t result)
{
    struct udp_tx_slot *slot = udp_tx_slot(tx, index);
    slot->result = result;
    slot->ended = true;
    if (ur_likely(slot->noticed))
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

/* What the kernel answers when the sticky source or its interface is gone. */
static bool blames_source(int error)
{
    return error == EINVAL || error == ENODEV || error == EADDRNOTAVAIL || error == ENETUNREACH;
}

enum udp_tx_verdict udp_tx_judge(struct udp_tx *tx, uint32_t index, int32_t result)
{
    struct udp_tx_slot *slot = udp_tx_slot(tx, index);
    if (ur_unlikely(result >= 0 && (uint32_t)result != slot->length))
        result = -EIO;   /* a datagram goes whole or not at all; anything else must not pass for success */
    if (ur_likely(result >= 0)) {
        tx->stats.packets += udp_tx_datagrams(slot);
        tx->stats.bytes += (uint32_t)result;
        tx->stats.trains += slot->segment_size != 0;
        end(tx, index, result);
        return UDP_TX_ENDED;
    }
    int error = -result;
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
    end(tx, index, result);
    return UDP_TX_ENDED;
}

void udp_tx_learn_peer(struct udp_tx *tx, uint32_t i)
{
    struct sockaddr_storage peer;
    struct udpring_address address;
    socklen_t length = sizeof(peer);
    bool connected = !getpeername(tx->fd[i], (struct sockaddr *)&peer, &length) &&
                     udp_address_from_sockaddr(&peer, length, &address);
    tx->wire_family[i] = connected ? (uint8_t)address.family : tx->family[i];
}

/* Families of the sockets; which a connected one speaks on the wire cannot be told from its packets. */
static int learn_families(struct udp_tx *tx, struct udpring_reason *why)
{
    for (uint32_t i = 0; i < tx->sockets; i++) {
        int family = udp_socket_family(tx->fd[i], why);
        if (family < 0)
            return family;
        tx->family[i] = (uint8_t)family;
        udp_tx_learn_peer(tx, i);
    }
    return 0;
}

static int allocate(struct udp_tx *tx, uint32_t slots)
{
    tx->capacity = 1;
    while (tx->capacity < slots)
        tx->capacity *= 2;
    tx->free = calloc(slots, sizeof(*tx->free));
    tx->done = calloc(tx->capacity, sizeof(*tx->done));
    if (!tx->free || !tx->done)
        return -ENOMEM;
    for (uint32_t i = 0; i < tx->sockets; i++) {
        tx->queue[i].slot = calloc(tx->capacity, sizeof(*tx->queue[i].slot));
        if (!tx->queue[i].slot)
            return -ENOMEM;
    }
    for (uint32_t i = 0; i < slots; i++)
        tx->free[i] = slots - 1 - i;
    tx->free_count = slots;
    return udp_slots_map(&tx->slots, slots, sizeof(struct udp_tx_slot), 0);
}

static int open_tier(struct udp_tx **opened, uint32_t id, const struct udp_tx_options *options, struct udpring_reason *why)
{
    const struct udp_tx_tier *tier = id < UR_ARRAY_LENGTH(tiers) ? tiers[id] : NULL;
    if (!tier)
        return ur_fail(why, -ENOSYS, "this build has no tier %s", udpring_tier_name(id));
    struct udp_tx *tx = calloc(1, tier->bytes);
    if (!tx)
        return ur_fail(why, -ENOMEM, "no memory for a send ring");
    tx->tier = tier;
    tx->tier_id = id;
    tx->sockets = options->sockets;
    for (uint32_t i = 0; i < tx->sockets; i++)
        tx->fd[i] = options->fd[i];
    int code = allocate(tx, options->slots ? options->slots : UDP_TX_SLOTS_DEFAULT);
    if (code)
        ur_fail(why, code, "no memory for a send ring: %s", strerror(-code));
    if (!code)
        code = learn_families(tx, why);
    if (!code)
        code = tier->open(tx, why);
    if (!code)
        udp_tx_zero_copy_open(tx, options->zero_copy);
    if (code) {
        (void)udp_tx_close(tx);
        return code;
    }
    *opened = tx;
    return 0;
}

int udp_tx_open(struct udp_tx **tx, const struct udp_tx_options *options, struct udpring_reason *why)
{
    *tx = NULL;
    if (options->sockets < 1 || options->sockets > UDP_RX_SOCKETS_MAX)
        return ur_fail(why, -EINVAL, "%u sockets given to a send ring: 1 or 2", options->sockets);
    if (options->slots > UDP_TX_SLOTS_MAX)
        return ur_fail(why, -EINVAL, "a send ring of %u entries: at most %d", options->slots, UDP_TX_SLOTS_MAX);
    int wanted = udp_tier_wanted(options->tier, why);
    if (wanted != UDPRING_TIER_AUTO)
        return wanted < 0 ? wanted : open_tier(tx, (uint32_t)wanted, options, why);
    char reasons[UDP_TIER_REASON_BYTES] = "";
    int code = -ENOSYS;
    for (uint32_t id = UDPRING_TIER_URING_MULTISHOT; id <= UDPRING_TIER_MMSG; id++) {
        struct udpring_reason here = {""};
        code = udp_tier_works(id, &here);
        if (!code)
            code = open_tier(tx, id, options, &here);
        if (!code) {
            memcpy((*tx)->reason, reasons, sizeof(reasons));
            return 0;
        }
        udp_tier_note(reasons, id, &here);
        if (why)
            *why = here;
    }
    return code;
}

bool udp_tx_close(struct udp_tx *tx)
{
    if (!tx)
        return true;
    bool ended = tx->tier->close(tx);
    if (!ended) {
        ur_graveyard_leak(tx->slots.base, tx->slots.bytes);
        tx->slots.base = NULL;
    }
    udp_slots_unmap(&tx->slots);
    for (uint32_t i = 0; i < tx->sockets; i++)
        free(tx->queue[i].slot);
    free(tx->done);
    free(tx->free);
    free(tx);
    return ended;
}

int udp_tx_check(const struct udp_tx *tx, const struct udp_tx_item *item)
{
    if (item->socket_index >= tx->sockets)
        return -EINVAL;
    if (item->length > LENGTH_MAX)
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
    slot->noticed = true;
}

int udp_tx_push(struct udp_tx *tx, const struct udp_tx_item *item)
{
    int code = udp_tx_check(tx, item);
    if (!code && !tx->free_count)
        code = -ENOBUFS;
    if (ur_unlikely(code))
        return code;
    uint32_t index = tx->free[--tx->free_count];
    udp_tx_lay_out(tx, udp_tx_slot(tx, index), item);
    struct udp_tx_queue *queue = &tx->queue[item->socket_index];
    queue->slot[(queue->head + queue->count++) & (tx->capacity - 1)] = index;
    return 0;
}

int udp_tx_send_now(struct udp_tx *tx, const uint8_t *data, uint64_t length, const struct udpring_address *to)
{
    UR_UNINITIALIZED struct sockaddr_storage name;
    socklen_t name_length = 0;
    if (!udp_tx_rests(tx) || length > LENGTH_MAX || udp_tx_zero_copy_wants(tx, length))
        return 1;
    if (to && to->family) {
        if (to->family != AF_INET && (to->family != AF_INET6 || tx->family[0] != AF_INET6))
            return 1;
        name_length = udp_address_to_sockaddr(to, tx->family[0], &name);
    }
    ssize_t sent = sendto(tx->fd[0], data, length, UDP_TX_FLAGS, name_length ? (struct sockaddr *)&name : NULL, name_length);
    int error = sent < 0 ? errno : 0;
    if (error == EAGAIN || error == ENOBUFS || error == EINTR || udp_tx_fatal(-error))
        return 1;
    tx->stats.submits++;
    if (!error && (uint64_t)sent != length)
        error = EIO;
    if (error) {
        udp_tx_count_error(&tx->stats, error, 1);
        return -error;
    }
    tx->stats.packets++;
    tx->stats.bytes += length;
    tx->aside += udp_tx_charge(length, 1);
    return 0;
}

int udp_tx_flush(struct udp_tx *tx)
{
    return tx->tier->flush(tx);
}

bool udp_tx_stalled(const struct udp_tx *tx)
{
    return tx->stalled;
}

unsigned udp_tx_abandon_if(struct udp_tx *tx, int32_t result, bool (*match)(void *context, uint64_t token), void *context)
{
    unsigned count = 0;
    for (uint32_t i = 0; i < tx->sockets; i++) {
        struct udp_tx_queue *queue = &tx->queue[i];
        uint32_t kept = queue->submitted;
        for (uint32_t n = queue->submitted; n < queue->count; n++) {
            uint32_t slot = udp_tx_queued(tx, queue, n);
            if (match(context, udp_tx_slot(tx, slot)->token)) {
                end(tx, slot, result);
                count++;
            } else {
                queue->slot[(queue->head + kept++) & (tx->capacity - 1)] = slot;
            }
        }
        queue->count = kept;
        if (!kept)
            queue->blocked = false;
    }
    return count;
}

static bool match_all(void *context, uint64_t token)
{
    return true;
}

unsigned udp_tx_abandon(struct udp_tx *tx, int32_t result)
{
    return udp_tx_abandon_if(tx, result, match_all, NULL);
}

unsigned udp_tx_reap(struct udp_tx *tx, struct udp_tx_done *done, unsigned max)
{
    if (tx->tier->collect)
        tx->tier->collect(tx);
    unsigned count = 0;
    for (; count < max && tx->done_count; count++, tx->done_count--) {
        uint32_t index = tx->done[tx->done_head++ & (tx->capacity - 1)];
        const struct udp_tx_slot *slot = udp_tx_slot(tx, index);
        done[count] = (struct udp_tx_done){.token = slot->token, .result = slot->result, .flags = slot->flags};
        tx->free[tx->free_count++] = index;
    }
    return count;
}

uint32_t udp_tx_tier(const struct udp_tx *tx)
{
    return tx->tier_id;
}

const char *udp_tx_tier_reason(const struct udp_tx *tx)
{
    return tx->reason;
}

uint32_t udp_tx_pending(const struct udp_tx *tx)
{
    return tx->slots.count - tx->free_count;
}

uint32_t udp_tx_room(const struct udp_tx *tx)
{
    return tx->free_count;
}

bool udp_tx_socket_parked(const struct udp_tx *tx, uint32_t socket_index)
{
    return socket_index < tx->sockets && tx->queue[socket_index].blocked;
}

int udp_tx_parked(const struct udp_tx *tx)
{
    for (uint32_t i = 0; i < tx->sockets; i++)
        if (tx->queue[i].blocked)
            return tx->fd[i];
    return -1;
}

int udp_tx_awaits_notice(struct udp_tx *tx)
{
    if (!tx->tier->notice || !tx->zero_copy.works || tx->done_count || tx->free_count == tx->slots.count)
        return -1;
    for (uint32_t i = 0; i < tx->sockets; i++)
        if (tx->queue[i].count)
            return -1;
    return tx->tier->notice(tx);
}

int udp_tx_zero_copy(const struct udp_tx *tx)
{
    return tx->zero_copy.outcome;
}

const struct udpring_tx_stats *udp_tx_stats(const struct udp_tx *tx)
{
    return &tx->stats;
}
