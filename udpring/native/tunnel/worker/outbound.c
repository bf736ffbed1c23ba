/* Out: TUN -> UDP.
 *   1. read packets and super-packets (TSO, USO). Sort by flow what has to wait   (flow_queue.c)
 *      take the next one apart in place                                          (segment.c)
 *      a message of our own that would loop: drop it                             (own_messages.c)
 *   2. allowed-IPs gives the peer. No session: stage it and ask for a handshake   (staged.c)
 *      no peer, and there is a directory: keep it and ask for the peer            (wanted.c)
 *   3. pad, seal, push to the send ring. It comes back at reap                   (seal.c)
 * Reads stop when the queue of flows is full. The interface's own queue then holds the rest.
 * Without a device the packets come from the program's queue, which pushes back likewise (packets/ports.h). */
#include "outbound.h"

#include "../tun/segment.h"

#include "events.h"
#include "own_messages.h"
#include "paths.h"
#include "seal.h"
#include "spread_out.h"
#include "staged.h"
#include "wanted.h"

/* This and outbound_packet() are inlined for either caller, as if it were the only one. */
static inline __attribute__((always_inline)) uint32_t destination_peer(const struct worker *worker, const uint8_t *packet, uint32_t length, bool *valid)
{
    *valid = true;
    if (length >= 20 && packet[0] >> 4 == 4)
        return allowed_ips_lookup4(worker->plane->trie, packet + 16);
    if (length >= 40 && packet[0] >> 4 == 6)
        return allowed_ips_lookup6(worker->plane->trie, packet + 24);
    *valid = false;
    return UDPRING_PEER_NONE;
}

/* For a packet that may be a message of our own. True: it was dropped. */
static UR_NOINLINE bool looped(struct worker *worker, const uint8_t *packet, uint32_t length)
{
    if (!own_message_loops(worker, packet, length))
        return false;
    plane_drop(worker, UDPRING_DROP_ROUTING_LOOP);
    return true;
}

static inline __attribute__((always_inline)) void outbound_packet(struct worker *worker, uint8_t *packet, uint32_t length)
{
    bool valid;
    struct peer *peer = plane_peer(worker->plane, destination_peer(worker, packet, length, &valid));
    if (ur_unlikely(!peer)) {
        if (valid)
            wanted_put(worker, packet, length);
        else
            plane_drop(worker, UDPRING_DROP_BAD_OUTER);
        return;
    }
    if (ur_unlikely(!peer->endpoint.family)) {
        plane_drop(worker, UDPRING_DROP_NO_ENDPOINT);
        return;
    }
    if (peer_loops(worker, peer, packet, length)) {
        plane_drop(worker, UDPRING_DROP_ROUTING_LOOP);
        return;
    }
    if (ur_likely(keypair_can_send(peer->current, worker->now) && !peer->staging[worker->number].count) &&
        ur_likely(seal_packet(worker, peer, packet, length) == 0))
        return;
    staged_put(worker, peer, packet, length);
}

/* Whether it is an IP packet of exactly this length. The kernel sees to that where there is a TUN device. */
static bool whole_packet(const uint8_t *packet, uint32_t length)
{
    if (length >= 20 && packet[0] >> 4 == 4)
        return ((uint32_t)packet[2] << 8 | packet[3]) == length;
    return length >= 40 && packet[0] >> 4 == 6 && ((uint32_t)packet[4] << 8 | packet[5]) + 40 == length;
}

/* A packet that is no super-packet. */
static inline void see_single(struct worker *worker, const uint8_t *packet, uint32_t length)
{
    bool udp = plane_is_udp(packet, length);
    worker->single_datagrams += udp;
    worker->charge += udp ? time_slice_charge(length) : 0;
}

/* As outbound_read(), from the program. The packet is sealed where it lies in the queue. */
static UR_NOINLINE ssize_t port_read(struct worker *worker)
{
    uint32_t length = 0;
    uint8_t *packet = packet_port_take(worker->port, &length);
    if (!packet)
        return -EAGAIN;
    if (ur_unlikely(!whole_packet(packet, length))) {
        plane_drop(worker, UDPRING_DROP_BAD_OUTER);
    } else if (ur_unlikely(length > worker->tun.mtu)) {
        plane_drop(worker, UDPRING_DROP_TOO_BIG);
    } else {
        see_single(worker, packet, length);
        worker->stats.tun_packets_in++;
        worker->stats.tun_bytes_in += length;
        if (ur_likely(!own_message_likely(worker, packet, length)) || !looped(worker, packet, length))
            outbound_packet(worker, packet, length);
    }
    return length ? length : 1;   /* 0 would mean that there is none */
}

/* Sends what one read gave. */
static void send_read(struct worker *worker, const struct vnet_header *vnet, uint8_t *packet, uint32_t length)
{
    bool own = own_message_likely(worker, packet, length);
    UR_UNINITIALIZED struct segmenter segmenter;
    if (ur_unlikely(segment_open(&segmenter, vnet, packet, length) < 0)) {
        plane_drop(worker, UDPRING_DROP_BAD_OUTER);
        return;
    }
    while (segment_next(&segmenter, &packet, &length)) {
        worker->stats.tun_packets_in++;
        worker->stats.tun_bytes_in += length;
        if (ur_likely(!own) || !looped(worker, packet, length))
            outbound_packet(worker, packet, length);
    }
}

/* The socket that it will leave by. The peer's endpoint may change until then, which does no harm. */
static uint32_t way_of(const struct worker *worker, const uint8_t *packet, uint32_t length)
{
    bool valid;
    const struct peer *peer = plane_peer(worker->plane, destination_peer(worker, packet, length, &valid));
    return peer && peer->endpoint.family == AF_INET6;
}

static void see_flow(struct worker *worker, uint32_t flow, bool super_packet)
{
    uint64_t until = sparse_until(&worker->sparse, flow, super_packet, worker->now);
    if (ur_unlikely(until))
        weight_want(&worker->plane->weight, until);
}

/* Reads one packet or super-packet. Sends it, or lets it wait in the queue of its flow. Returns the bytes read, or <= 0 when
 * there is none. */
static ssize_t outbound_read(struct worker *worker)
{
    struct vnet_header vnet = {0};
    struct flow_queue *flows = worker->flows;
    uint8_t *packet = flow_queue_room(flows);
    ssize_t got = tun_read(&worker->tun, &vnet, packet, OUT_DATA_MAX);
    if (got <= 0)
        return got;
    bool single = vnet.gso_type == VNET_GSO_NONE;
    bool many = worker->datagram_rate.high;    /* the weight is the usual one then, whatever the flows are */
    if (ur_likely(single))
        see_single(worker, packet, (uint32_t)got);
    if (ur_likely(single && !flows->count) && ur_likely(outbound_has_room(worker) && outbound_ways(worker) == 3)) {
        if (!many)
            see_flow(worker, flow_queue_number(flows, packet, (uint32_t)got), false);
        send_read(worker, &vnet, packet, (uint32_t)got);
    } else {
        uint32_t number = flow_queue_put(flows, way_of(worker, packet, (uint32_t)got), &vnet, (uint32_t)got, worker->now);
        if (!many)
            see_flow(worker, number % FLOW_QUEUES, !single);
    }
    return got;
}

/* After a read that gave no packet: 0 if there is none, or the -errno of a failure that leaves packets unread. */
static int outbound_nothing(struct worker *worker, int got)
{
    worker->tun_ready = false;
    if (got == -EAGAIN || got == 0)
        return 0;
    if (got != -EBADFD && got != -EBADF && got != -ENODEV)
        return got;   /* also -EIO: the interface is being removed, and the next read says so */
    worker->tun_gone = worker->no_tun = true;
    if (!__atomic_exchange_n(&worker->plane->tun_gone_posted, 1, __ATOMIC_RELAXED))
        plane_post_end(worker, UDPRING_EVENT_TUN_GONE, got);
    return 0;
}

static void port_pass(struct worker *worker)
{
    uint32_t bytes = 0;
    for (unsigned i = 0; i < PORT_BATCH && bytes < TUN_BATCH_BYTES && outbound_has_room(worker); i++) {
        ssize_t got = port_read(worker);
        if (got <= 0) {
            worker->tun_ready = false;
            break;
        }
        bytes += (uint32_t)got;
    }
    seal_close_train(worker);
    packet_port_release(worker->port);
}

/* While helpers may seal. True: the packet is a job, and is released later. */
static UR_NOINLINE bool spread(struct worker *worker, struct flow_packet *next)
{
    bool valid;
    struct peer *peer = plane_peer(worker->plane, destination_peer(worker, next->packet, next->length, &valid));
    if (!peer || !peer->endpoint.family || peer_loops(worker, peer, next->packet, next->length) ||
        !spread_out_take(worker, peer, next))
        return false;
    spread_out_push(worker);
    return true;
}

/* Reads what the device has, then sends the next packet that had to wait, and so on. A packet that comes while a super-packet
 * is sealed thus waits for that one alone. */
static int device_pass(struct worker *worker)
{
    uint32_t bytes = 0, reads = 0, most = worker->spread_on ? SPREAD_BATCH_BYTES : TUN_BATCH_BYTES;
    int result = 0;
    for (;;) {
        uint32_t ahead = outbound_ways(worker) == 3 && outbound_has_room(worker) ? TUN_AHEAD : UINT32_MAX;
        while (!worker->tun_gone && reads < TUN_BATCH && worker->flows->bytes < ahead && flow_queue_room(worker->flows)) {
            ssize_t got = outbound_read(worker);
            worker->tun_ready = got > 0;
            if (got <= 0) {
                result = outbound_nothing(worker, (int)got);
                break;
            }
            reads++;
        }
        if (bytes >= most || !worker->flows->count || !outbound_has_room(worker))
            break;
        struct flow_packet *next = flow_queue_take(worker->flows, outbound_ways(worker), worker->now);
        if (!next)
            break;
        bytes += next->length <= SMALL_BYTES ? most : next->length;
        if (ur_unlikely(worker->spread_on) && spread(worker, next))
            continue;
        send_read(worker, &next->vnet, next->packet, next->length);
        flow_queue_release(worker->flows, next);
    }
    if (ur_unlikely(worker->spread_pending))
        spread_out_join(worker);
    return result;
}

int outbound_pass(struct worker *worker)
{
    if (!worker->tun_ready && !(worker->flows && worker->flows->count))
        return 0;
    if (worker->now - worker->mtu_checked_ns >= MTU_CHECK_NS) {
        worker->mtu_checked_ns = worker->now;
        tun_refresh(&worker->tun);
    }
    if (ur_likely(!worker->port))
        return device_pass(worker);
    port_pass(worker);
    return 0;
}
