/* Sealed packets on their way to the send ring (seal.c). */
#ifndef UDPRING_TUNNEL_WORKER_SEAL_H
#define UDPRING_TUNNEL_WORKER_SEAL_H
#include "state.h"

/* Whether there are enough slots for the packets of one read of the TUN device. */
static inline bool seal_has_room(const struct worker *worker)
{
    bool singly = __atomic_load_n(&worker->plane->some_singly, __ATOMIC_RELAXED) || worker->stats.trains_split;
    return worker->out_free_count > (singly ? OUT_SLOTS_SINGLY : OUT_SLOTS_RESERVED);
}
/* Seals a packet for the peer onto its train. The peer has an endpoint and a key that may send. Behind the packet there is
 * room for WG_PADDING bytes, which are as before when this returns. -ENOBUFS: no slot. 0: sealed, or dropped and counted. */
int seal_packet(struct worker *worker, struct peer *peer, uint8_t *packet, uint32_t length) UR_MUST_CHECK;
int seal_message(struct worker *worker, struct peer *peer, const uint8_t *bytes, uint32_t length, uint8_t tos,
                 const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index);
/* Messages of `segment` bytes each, one behind the other, to the peer's endpoint as one train, which is no data. */
int seal_train(struct worker *worker, struct peer *peer, const uint8_t *bytes, uint32_t length, uint32_t segment) UR_MUST_CHECK;
void seal_close_train(struct worker *worker);
bool seal_reap(struct worker *worker);       /* true: refused trains were pushed again in pieces, flush them */
#endif
