/* Sealed packets on their way to the send ring (seal.c). */
#ifndef UDPRING_TUNNEL_WORKER_SEAL_H
#define UDPRING_TUNNEL_WORKER_SEAL_H
#include "../messages.h"

#include "state.h"

/* Whether there are enough slots for the packets of one read of the TUN device. */
static inline bool seal_has_room(const struct worker *worker)
{
    bool singly = __atomic_load_n(&worker->plane->some_singly, __ATOMIC_RELAXED) || worker->stats.trains_split;
    return worker->out_free_count > (singly ? OUT_SLOTS_SINGLY : OUT_SLOTS_RESERVED);
}
/* Seals a packet into the peer's train. The peer has an endpoint and a key that may send. The packet is followed by room for
 * WG_PADDING bytes, which are unchanged when this returns. -ENOBUFS: no slot. 0: sealed, or dropped and counted. */
int seal_packet(struct worker *worker, struct peer *peer, uint8_t *packet, uint32_t length) UR_MUST_CHECK;
int seal_message(struct worker *worker, struct peer *peer, const uint8_t *bytes, uint32_t length, uint8_t tos,
                 const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index);
/* Messages of `segment` bytes each, one behind the other, to the peer's endpoint as one train, which is no data. */
int seal_train(struct worker *worker, struct peer *peer, const uint8_t *bytes, uint32_t length, uint32_t segment) UR_MUST_CHECK;
void seal_close_train(struct worker *worker);
/* The parts of seal_packet(), for spread_out.c, which seals later. */
/* The length of a packet with its padding: zero bytes up to a multiple of 16, but never beyond the interface's MTU (kernel:
 * calculate_skb_padding). */
static inline uint32_t seal_padded(const struct worker *worker, uint32_t length)
{
    uint32_t mtu = worker->tun.mtu;
    uint32_t last = mtu && length > mtu ? length % mtu : length;
    uint32_t full = (last + WG_PADDING - 1) & ~(WG_PADDING - 1u);
    if (mtu && full > mtu)
        full = mtu;
    return length + (full > last ? full - last : 0);
}
/* Reserves the place and the nonce of a packet with data. *old: the key should be replaced, by its count of packets or blocks.
 * Closes the train after a short packet. 0, -ENOBUFS: no slot, or -EKEYEXPIRED: drop the packet. */
struct spread_packet;
int seal_reserve(struct worker *worker, struct peer *peer, uint32_t length, uint8_t tos, struct spread_packet *packet, bool *old) UR_MUST_CHECK;
/* Call after the last seal_reserve() of a super-packet. */
void seal_reserved(struct worker *worker, struct peer *peer, bool old);
/* Pushes a closed train that was held back (worker->spread_pending). */
void seal_push_train(struct worker *worker, uint32_t slot);
/* Seals a packet into its place with any worker's object of the key. The packet needs the room that seal_packet() asks for. 0, or
 * -EIO: the place holds no sealed packet. */
static inline int seal_into(struct aead_key *key, const struct keypair *keypair, uint8_t *packet, uint32_t length, uint32_t full,
                            uint8_t *place, uint64_t counter)
{
    struct wg_data_header header = {
        .type = htole32(keypair->data_type),
        .receiver = htole32(keypair->remote_index),
        .counter = htole64(counter),
    };
    memcpy(place, &header, sizeof(header));
    /* The bytes behind the packet may be the next segment's payload: save them. */
    uint8_t behind[WG_PADDING];
    memcpy(behind, packet + length, full - length);
    memset(packet + length, 0, full - length);
    struct aead_op op = {.in = packet, .out = place + WG_DATA_HEADER, .length = full, .counter = counter};
    key->impl->seal(key, &op, 1);
    memcpy(packet + length, behind, full - length);
    return op.result;
}
bool seal_reap(struct worker *worker);       /* true: refused trains were pushed again in pieces, flush them */
#endif
