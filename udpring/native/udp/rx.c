#include "rx.h"

#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "../uring/graveyard.h"
#include "../uring/thread.h"

#include "rx_set.h"
#include "rx_tier.h"
#include "socket.h"

static const struct udp_rx_tier *const tiers[] = {
    [UDPRING_TIER_URING_MULTISHOT] = &udp_rx_multishot,
    [UDPRING_TIER_URING_POOL] = &udp_rx_pool,
    [UDPRING_TIER_MMSG] = &udp_rx_mmsg,
};
static const struct udp_rx_tier *const tiers_of_many[] = {
    [UDPRING_TIER_URING_MULTISHOT] = &udp_rx_set_multishot,
    [UDPRING_TIER_URING_POOL] = &udp_rx_set_pool,
    [UDPRING_TIER_MMSG] = &udp_rx_set_mmsg,
};

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

int udp_rx_open_tier(struct udp_rx **opened, uint32_t id, const struct udp_rx_options *options, struct udpring_reason *why)
{
    const struct udp_rx_tier *tier = options->many ? tiers_of_many[id] : tiers[id];
    struct udp_rx *rx = calloc(1, tier->bytes);
    if (!rx)
        return ur_fail(why, -ENOMEM, "no memory for a receive ring");
    rx->tier = tier;
    rx->sockets = options->sockets;
    rx->pollable = options->pollable;
    rx->direct = options->direct;
    rx->passive = options->passive;
    rx->gro_wanted = options->gro;
    rx->gro_may_fail = options->gro_may_fail;
    rx->timestamps_wanted = options->timestamps;
    rx->per_socket = options->slots ? options->slots : options->many ? UDP_RX_SLOTS_OF_MANY : UDP_RX_SLOTS_DEFAULT;
    rx->slot_bytes = options->slot_bytes ? options->slot_bytes : UDP_RX_SLOT_BYTES_DEFAULT;
    for (uint32_t i = 0; i < rx->sockets; i++)
        rx->fd[i] = options->fd[i];
    uint32_t count = options->many ? rx->per_socket : rx->sockets * rx->per_socket;
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

void udp_rx_notify(struct udp_rx *rx)
{
    if (rx->tier->notify)
        rx->tier->notify(rx);
}

unsigned udp_rx_harvest(struct udp_rx *rx, struct udpring_packet *packets, unsigned max)
{
    return rx->tier->harvest(rx, packets, max);
}

void udp_rx_release(struct udp_rx *rx, uint32_t slot)
{
    if (ur_unlikely(slot >= rx->slots.count || !rx->held[slot])) {
        rx->stats.stale++;   /* released twice: the kernel may already use the slot again */
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

bool udp_rx_prepare_poll(struct udp_rx *rx)
{
    return rx->tier->prepare_poll(rx);
}

bool udp_rx_pending(const struct udp_rx *rx)
{
    return rx->fatal || rx->watched || rx->tier->pending(rx);
}

int64_t udp_rx_add(struct udp_rx *rx, int fd, struct udpring_reason *why)
{
    return rx->set ? rx_set_add(rx->set, fd, why) : ur_fail(why, -EINVAL, "this receive ring has one socket only");
}

int udp_rx_remove(struct udp_rx *rx, uint32_t index)
{
    return rx->set ? rx_set_remove(rx->set, index) : -EINVAL;
}

int64_t udp_rx_ended(struct udp_rx *rx, int *error)
{
    return rx->set ? rx_set_ended(rx->set, error) : -ENOENT;
}

bool udp_rx_any_ended(const struct udp_rx *rx)
{
    return rx->set && rx->set->ended.first != UDP_RX_NO_MEMBER;
}

unsigned udp_rx_harvest_from(struct udp_rx *rx, uint32_t index, struct udpring_packet *packets, unsigned max)
{
    return rx_set_receive_from(rx->set, index, packets, max);
}

int udp_rx_member_error(struct udp_rx *rx, uint32_t index, bool look)
{
    return rx->set ? rx_set_member_error(rx->set, index, look) : -EINVAL;
}

bool udp_rx_waits(const struct udp_rx *rx, uint32_t index)
{
    int bytes = 0;
    if (rx->set && index >= rx->set->capacity)
        return false;
    int fd = rx->set ? rx->set->member[index].socket.fd : rx->fd[0];
    return ioctl(fd, FIONREAD, &bytes) == 0 && bytes > 0;
}

void udp_rx_check(struct udp_rx *rx, uint32_t sockets)
{
    if (rx->set)
        rx_set_check(rx->set, sockets);
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
