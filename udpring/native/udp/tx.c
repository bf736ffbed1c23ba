#include "tx.h"

#include <stdlib.h>

#include "../uring/graveyard.h"

#include "socket.h"
#include "tier_choice.h"
#include "tx_tier.h"

static const struct udp_tx_tier *const tiers[] = {
    [UDPRING_TIER_URING_MULTISHOT] = &udp_tx_uring,
    [UDPRING_TIER_URING_POOL] = &udp_tx_uring,
    [UDPRING_TIER_MMSG] = &udp_tx_mmsg,
};

void udp_tx_learn_peer(struct udp_tx *tx, uint32_t i)
{
    struct sockaddr_storage peer;
    struct udpring_address address;
    socklen_t length = sizeof(peer);
    bool connected = !getpeername(tx->fd[i], (struct sockaddr *)&peer, &length) &&
                     udp_address_from_sockaddr(&peer, length, &address);
    tx->wire_family[i] = connected ? (uint8_t)address.family : tx->family[i];
}

/* Finds the families of the sockets. The packets of a connected socket do not show which family it uses on the wire. */
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

int udp_tx_use(struct udp_tx *tx, int fd)
{
    int family = udp_tx_idle(tx) ? udp_socket_family(fd, NULL) : -EBUSY;
    if (family < 0)
        return family;
    tx->fd[0] = fd;
    tx->family[0] = (uint8_t)family;
    tx->direct_charge = 0;
    tx->queue[0].blocked = false;
    udp_tx_learn_peer(tx, 0);
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
    const struct udp_tx_tier *tier = tiers[id];
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

struct opening {
    struct udp_tx **tx;
    const struct udp_tx_options *options;
};

static int open_this(void *context, uint32_t tier, struct udpring_reason *why)
{
    const struct opening *opening = context;
    return open_tier(opening->tx, tier, opening->options, why);
}

int udp_tx_open(struct udp_tx **tx, const struct udp_tx_options *options, struct udpring_reason *why)
{
    struct opening opening = {tx, options};
    char reasons[UDP_TIER_REASON_BYTES];
    *tx = NULL;
    if (options->sockets < 1 || options->sockets > UDP_RX_SOCKETS_MAX)
        return ur_fail(why, -EINVAL, "%u sockets given to a send ring: 1 or 2", options->sockets);
    if (options->slots > UDP_TX_SLOTS_MAX)
        return ur_fail(why, -EINVAL, "a send ring of %u entries: at most %d", options->slots, UDP_TX_SLOTS_MAX);
    int code = udp_tier_choose(options->tier, open_this, &opening, reasons, why);
    if (!code)
        memcpy((*tx)->reason, reasons, sizeof(reasons));
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
                udp_tx_end(tx, slot, result);
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
