/* Out: TUN -> UDP (outbound.c). */
#ifndef UDPRING_TUNNEL_WORKER_OUTBOUND_H
#define UDPRING_TUNNEL_WORKER_OUTBOUND_H
#include "seal.h"

/* The sockets that are not full (bits by family). Packets for a full one wait in the queues of their flows, unsealed. */
static inline uint32_t outbound_ways(const struct worker *worker)
{
    return (uint32_t)!udp_tx_socket_parked(worker->tx, worker->socket_of[0]) |
           (uint32_t)!udp_tx_socket_parked(worker->tx, worker->socket_of[1]) << 1;
}

/* Whether there is room for all trains that a super-packet may become. */
static inline bool outbound_has_room(const struct worker *worker)
{
    return seal_has_room(worker) && udp_tx_room(worker->tx) >= TRAINS_PER_READ;
}

/* Whether the next pass sends more for certain. The open train then stays open for it. */
static inline bool outbound_goes_on(const struct worker *worker)
{
    const struct flow_queue *flows = worker->flows;
    if (ur_likely(!flows || !flows->count) || !outbound_has_room(worker))
        return false;
    uint32_t ways = outbound_ways(worker);
    return (ways & 1 && flows->waiting[0]) || (ways & 2 && flows->waiting[1]);
}

/* Whether there is something to do without a wake-up. */
static inline bool outbound_has_work(const struct worker *worker)
{
    if (worker->port)
        return worker->tun_ready && outbound_has_room(worker);
    return (worker->tun_ready && flow_queue_room(worker->flows)) || outbound_goes_on(worker);
}

int outbound_pass(struct worker *worker) UR_MUST_CHECK;   /* 0, or why the TUN device could not be read */
#endif
