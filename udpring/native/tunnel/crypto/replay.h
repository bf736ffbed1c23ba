/* The sliding window against replayed packets (RFC 6479): a ring of words, so that moving on shifts nothing. */
#ifndef UDPRING_TUNNEL_CRYPTO_REPLAY_H
#define UDPRING_TUNNEL_CRYPTO_REPLAY_H
#include "../messages.h"

#define REPLAY_BITS 8192u
/* One word is always being filled, so the window tells this many counters behind the greatest apart. */
#define REPLAY_WINDOW (REPLAY_BITS - 64u)

/* Owner: a keypair, and freed with it. Thread: the worker. */
struct replay_window {
    uint64_t last;                      /* greatest counter accepted. 0 also before the first */
    uint64_t bits[REPLAY_BITS / 64];    /* seen counters, by counter % REPLAY_BITS */
};

void replay_reset(struct replay_window *window);
/* Would this counter be accepted? Moves nothing, so it may be asked before the packet is authenticated. */
bool replay_check(const struct replay_window *window, uint64_t counter);
/* Accepts the counter of an authenticated packet, or refuses it (seen, too old, at the message limit). */
bool replay_update(struct replay_window *window, uint64_t counter);
#endif
