/* Commands: the state of peers, and the counters. */
#include "../tun/tun_packet.h"

#include "command.h"
#include "handshakes.h"
#include "rings.h"

static void peer_state(const struct worker *worker, const struct peer *peer, struct udpring_peer_state *out)
{
    *out = (struct udpring_peer_state){
        .peer = peer->id,
        .staged = staged_count(worker, peer),
        .rx_bytes = peer->rx_bytes,
        .tx_bytes = peer->tx_bytes,
        .unanswered_since_ns = peer->unanswered_since_ns,
        .owed_since_ns = peer->owed_since_ns,
        .last_traversal_ns = peer->last_traversal_ns,
        .last_received_ns = peer->last_received_ns,
        .last_sent_ns = peer->last_sent_ns,
        .session_birth_ns = peer->current ? peer->current->birth_ns : 0,
        .send_counter = peer->current ? peer->current->counter : 0,
        .owed_again = peer->owed_again,
        .interface_index = peer->interface_index,
        .endpoint = peer->endpoint,
        .source = peer->source,
    };
}

struct state_arguments {
    const uint32_t *peers;
    uint32_t count;
    bool post_activity;
    struct udpring_peer_state *out;
    uint32_t filled;
};

static int run_states_of(struct worker *worker, void *argument)
{
    struct state_arguments *arguments = argument;
    for (uint32_t i = 0; i < arguments->count; i++) {
        struct peer *peer = plane_peer(worker->plane, arguments->peers[i]);
        if (!peer)
            continue;
        peer->post_activity = arguments->post_activity;
        peer_state(worker, peer, &arguments->out[arguments->filled++]);
    }
    return 0;
}

uint32_t udpring_plane_states_of(struct udpring_plane *plane, const uint32_t *peers, uint32_t count, int32_t post_activity,
                                 struct udpring_peer_state *out)
{
    struct state_arguments arguments = {.peers = peers, .count = count, .post_activity = post_activity != 0, .out = out};
    plane_call(plane, run_states_of, &arguments);
    return arguments.filled;
}

int32_t udpring_plane_peer_state(struct udpring_plane *plane, uint32_t peer, int32_t post_activity, struct udpring_peer_state *out)
{
    return udpring_plane_states_of(plane, &peer, 1, post_activity, out) ? 0 : -ENOENT;
}

struct all_arguments {
    uint32_t first, max;
    struct udpring_peer_state *out;
    uint32_t *next;
    uint32_t filled;
};

static int run_peer_states(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct all_arguments *arguments = argument;
    uint32_t slot = arguments->first;
    for (; slot < plane->peers_capacity && arguments->filled < arguments->max; slot++)
        if (plane->peers[slot])
            peer_state(worker, plane->peers[slot], &arguments->out[arguments->filled++]);
    *arguments->next = slot < plane->peers_capacity ? slot : 0;
    return 0;
}

uint32_t udpring_plane_peer_states(struct udpring_plane *plane, uint32_t first, struct udpring_peer_state *out, uint32_t max, uint32_t *next)
{
    struct all_arguments arguments = {.first = first, .max = max, .out = out, .next = next};
    plane_call(plane, run_peer_states, &arguments);
    return arguments.filled;
}

/* Drops of the handshake sockets in the kernel count as flooded, not as lost data. */
static void add_handshakes(struct udpring_plane_stats *out, const struct handshakes *handshakes)
{
    struct udpring_rx_stats sum = handshakes->before;
    counters_add(&sum, &handshakes->seen, sizeof(sum));
    out->drops[UDPRING_DROP_FLOODED] += sum.kernel_drops;
    sum.kernel_drops = 0;
    counters_add(&out->rx, &sum, sizeof(out->rx));
    out->handshake_sockets += (handshakes->fd[0] >= 0) + (handshakes->fd[1] >= 0);
}

/* The counters of one worker, which is stopped or is the caller. */
static void add_worker(struct udpring_plane_stats *out, const struct worker *worker)
{
    counters_add(out, &worker->stats, offsetof(struct udpring_plane_stats, tier));
    counters_add(&out->rx, &worker->rx_before, sizeof(out->rx));
    counters_add(&out->tx, &worker->tx_before, sizeof(out->tx));
    /* Not the ring's own: its worker may be counting the wake-up from a wait right now. */
    counters_add(&out->rx, &worker->rx_seen, sizeof(out->rx));
    add_handshakes(out, &worker->handshakes);
    counters_add(&out->tx, &worker->tx_seen, sizeof(out->tx));
    out->drops[UDPRING_DROP_TUN_FULL] += worker->coalescer.refused;
    out->super_packets_split += worker->coalescer.refusals.count;
    out->staged_bytes += (uint32_t)worker->staged.bytes;
    if (worker->wanted)
        out->wanted_bytes += (uint32_t)worker->wanted->staged.bytes;
    if (worker->flows) {
        out->flow_packets += worker->flows->count;
        out->flow_bytes += worker->flows->bytes;
        out->congestion_marks += worker->flows->marked;
        out->drops[UDPRING_DROP_CODEL] += worker->flows->dropped;
    }
    if (worker->tx) {
        uint32_t pending = udp_tx_pending(worker->tx);
        out->sends_pending += pending;
        out->send_slots += pending + udp_tx_room(worker->tx);
    }
    if (worker->rx)
        udp_rx_queues(worker->rx, &out->receive_queue_bytes, &out->receive_queue_limit);
    if (worker->port) {
        out->program_out_bytes += packet_queue_depth(worker->port->outward);
        out->program_in_bytes += packet_queue_depth(worker->port->inward);
    }
}

static int run_stats(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct udpring_plane_stats *out = argument;
    *out = (struct udpring_plane_stats){
        .tier = worker->rx ? udp_rx_tier(worker->rx) : 0,
        .aead = (uint32_t)udpring_aead_chosen(UDPRING_CIPHER_CHACHA20_POLY1305),
        .peers = plane->peers_count,
        .prefixes = trie_count(plane->trie),
        .keypairs = plane->indices.count - plane->indices.reserved,
        .mailbox_depth = mailbox_depth(&plane->mailbox),
        .workers = plane->worker_count,
        .mailbox_capacity = plane->mailbox.capacity,
        .nice = weight_now(&plane->weight, &worker->weight),
        .tun_offloads = worker->tun.offloads,
    };
    handshakes_see_drops(&worker->handshakes);
    worker_see_counters(worker);   /* the caller's own are in the middle of a pass */
    for (uint32_t i = 0; i < plane->worker_count; i++) {
        add_worker(out, &plane->workers[i]);
        out->drops[UDPRING_DROP_QUEUE_FULL] += tun_packet_lost(&plane->workers[i].tun);
    }
    handshake_threads_add_stats(&plane->handshakes, out);
    out->route_notices = __atomic_load_n(&plane->routes.notices, __ATOMIC_RELAXED);
    out->route_sweeps = __atomic_load_n(&plane->routes.sweeps, __ATOMIC_RELAXED);
    out->route_lookups = __atomic_load_n(&plane->routes.lookups, __ATOMIC_RELAXED);
    out->route_failures = __atomic_load_n(&plane->routes.failures, __ATOMIC_RELAXED);
    return 0;
}

int32_t udpring_plane_stats(struct udpring_plane *plane, struct udpring_plane_stats *out)
{
    return plane_call(plane, run_stats, out);
}
