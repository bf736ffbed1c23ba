/* Stand-ins for the functions of the plane while plane.c is being written: each says -ENOSYS or NULL. Weak, so that the
 * real ones win. To be deleted with the last of them. */
#include "../base.h"
#include "abi.h"

#define PENDING __attribute__((weak))

PENDING struct udpring_plane *udpring_plane_open(const struct udpring_plane_options *options, int32_t *code, struct udpring_reason *why) { *code = -ENOSYS; return NULL; }
PENDING void udpring_plane_close(struct udpring_plane *plane) {  }
PENDING const char *udpring_plane_name(const struct udpring_plane *plane) { return NULL; }
PENDING const char *udpring_plane_tier_reason(const struct udpring_plane *plane) { return NULL; }
PENDING int32_t udpring_plane_eventfd(const struct udpring_plane *plane) { return -ENOSYS; }
PENDING uint32_t udpring_plane_events(struct udpring_plane *plane, struct udpring_event *out, uint32_t max) { return 0; }
PENDING int32_t udpring_plane_bind(struct udpring_plane *plane, uint16_t *port, uint32_t fwmark, struct udpring_reason *why) { return -ENOSYS; }
PENDING int32_t udpring_plane_mark(struct udpring_plane *plane, uint32_t fwmark) { return -ENOSYS; }
PENDING int32_t udpring_plane_identity(struct udpring_plane *plane, const uint8_t *mac1_key) { return -ENOSYS; }
PENDING int32_t udpring_plane_cookie_secret(struct udpring_plane *plane, const uint8_t *secret) { return -ENOSYS; }
PENDING int32_t udpring_plane_peer_add(struct udpring_plane *plane, uint32_t *peer) { return -ENOSYS; }
PENDING int32_t udpring_plane_peer_remove(struct udpring_plane *plane, uint32_t peer) { return -ENOSYS; }
PENDING int32_t udpring_plane_endpoint(struct udpring_plane *plane, uint32_t peer, const struct udpring_address *endpoint) { return -ENOSYS; }
PENDING int32_t udpring_plane_prefixes(struct udpring_plane *plane, const struct udpring_prefix *prefixes, uint32_t count, uint32_t *done) { return -ENOSYS; }
PENDING int32_t udpring_plane_prefixes_clear(struct udpring_plane *plane, uint32_t peer) { return -ENOSYS; }
PENDING uint32_t udpring_plane_prefixes_list(struct udpring_plane *plane, uint32_t peer, struct udpring_prefix *out, uint32_t max) { return 0; }
PENDING int32_t udpring_plane_index_new(struct udpring_plane *plane, uint32_t peer, uint32_t *index) { return -ENOSYS; }
PENDING int32_t udpring_plane_index_release(struct udpring_plane *plane, uint32_t index) { return -ENOSYS; }
PENDING int32_t udpring_plane_keypair(struct udpring_plane *plane, uint32_t peer, const uint8_t *keys, uint32_t local_index, uint32_t remote_index, int32_t initiator, uint64_t birth_ns) { return -ENOSYS; }
PENDING int32_t udpring_plane_keys_erase(struct udpring_plane *plane, uint32_t peer) { return -ENOSYS; }
PENDING int32_t udpring_plane_keys_expire(struct udpring_plane *plane, uint32_t peer) { return -ENOSYS; }
PENDING int32_t udpring_plane_send(struct udpring_plane *plane, uint32_t peer, const uint8_t *bytes, uint32_t length, uint8_t tos, const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index) { return -ENOSYS; }
PENDING int32_t udpring_plane_authenticated(struct udpring_plane *plane, uint32_t peer, uint32_t bytes, const struct udpring_address *source, const struct udpring_address *local, uint32_t interface_index) { return -ENOSYS; }
PENDING int32_t udpring_plane_keepalive(struct udpring_plane *plane, uint32_t peer) { return -ENOSYS; }
PENDING int32_t udpring_plane_source_clear(struct udpring_plane *plane, uint32_t peer) { return -ENOSYS; }
PENDING int32_t udpring_plane_staged_drop(struct udpring_plane *plane, uint32_t peer) { return -ENOSYS; }
PENDING int32_t udpring_plane_peer_state(struct udpring_plane *plane, uint32_t peer, int32_t rest, struct udpring_peer_state *out) { return -ENOSYS; }
PENDING uint32_t udpring_plane_peer_states(struct udpring_plane *plane, uint32_t first, struct udpring_peer_state *out, uint32_t max, uint32_t *next) { return 0; }
PENDING int32_t udpring_plane_stats(struct udpring_plane *plane, struct udpring_plane_stats *out) { return -ENOSYS; }
PENDING int32_t udpring_plane_test_counter(struct udpring_plane *plane, uint32_t peer, uint64_t counter) { return -ENOSYS; }
PENDING int32_t udpring_plane_test_age(struct udpring_plane *plane, uint32_t peer, uint64_t age_ns) { return -ENOSYS; }
