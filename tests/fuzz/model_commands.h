/* Single commands: batches of one, each with the result of UDPRING_COMMAND_*. */
#ifndef MODEL_COMMANDS_H
#define MODEL_COMMANDS_H
#include "tunnel/abi.h"

int32_t udpring_plane_index_release(struct udpring_plane *plane, uint32_t index);
int32_t udpring_plane_keypair(struct udpring_plane *plane, uint32_t peer, int32_t cipher, const uint8_t *keys,
                              uint32_t local_index, uint32_t remote_index, int32_t initiator, uint64_t birth_ns);
int32_t udpring_plane_keys_erase(struct udpring_plane *plane, uint32_t peer);
int32_t udpring_plane_keys_expire(struct udpring_plane *plane, uint32_t peer);
/* to, from, cookie_key: NULL: none. */
int32_t udpring_plane_send(struct udpring_plane *plane, uint32_t peer, const uint8_t *bytes, uint32_t length, uint8_t tos,
                           const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index,
                           const uint8_t *cookie_key);
int32_t udpring_plane_authenticated(struct udpring_plane *plane, uint32_t peer, uint32_t bytes, const struct udpring_address *source,
                                    const struct udpring_address *local, uint32_t interface_index);
int32_t udpring_plane_keepalive(struct udpring_plane *plane, uint32_t peer);
int32_t udpring_plane_source_clear(struct udpring_plane *plane, uint32_t peer);
int32_t udpring_plane_staged_drop(struct udpring_plane *plane, uint32_t peer);
#endif
