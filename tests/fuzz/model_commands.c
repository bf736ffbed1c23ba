#include "model_commands.h"

#include "base.h"

static int32_t run_single(struct udpring_plane *plane, struct udpring_command *command)
{
    (void)udpring_plane_commands(plane, command, 1);
    return command->result;
}

static int32_t on_peer(struct udpring_plane *plane, uint32_t peer, enum udpring_command_kind kind)
{
    struct udpring_command command = {.kind = kind, .peer = peer};
    return run_single(plane, &command);
}

int32_t udpring_plane_keys_erase(struct udpring_plane *plane, uint32_t peer)
{
    return on_peer(plane, peer, UDPRING_COMMAND_KEYS_ERASE);
}

int32_t udpring_plane_keys_expire(struct udpring_plane *plane, uint32_t peer)
{
    return on_peer(plane, peer, UDPRING_COMMAND_KEYS_EXPIRE);
}

int32_t udpring_plane_keepalive(struct udpring_plane *plane, uint32_t peer)
{
    return on_peer(plane, peer, UDPRING_COMMAND_KEEPALIVE);
}

int32_t udpring_plane_source_clear(struct udpring_plane *plane, uint32_t peer)
{
    return on_peer(plane, peer, UDPRING_COMMAND_SOURCE_CLEAR);
}

int32_t udpring_plane_staged_drop(struct udpring_plane *plane, uint32_t peer)
{
    return on_peer(plane, peer, UDPRING_COMMAND_STAGED_DROP);
}

int32_t udpring_plane_index_release(struct udpring_plane *plane, uint32_t index)
{
    struct udpring_command command = {.kind = UDPRING_COMMAND_INDEX_RELEASE, .local_index = index};
    return run_single(plane, &command);
}

int32_t udpring_plane_authenticated(struct udpring_plane *plane, uint32_t peer, uint32_t bytes, const struct udpring_address *source,
                                    const struct udpring_address *local, uint32_t interface_index)
{
    struct udpring_command command = {.kind = UDPRING_COMMAND_AUTHENTICATED, .peer = peer, .length = bytes, .address = *source,
                                      .interface_index = interface_index};
    if (local)
        command.local = *local;
    return run_single(plane, &command);
}

int32_t udpring_plane_keypair(struct udpring_plane *plane, uint32_t peer, int32_t cipher, const uint8_t *keys,
                              uint32_t local_index, uint32_t remote_index, int32_t initiator, uint64_t birth_ns)
{
    struct udpring_command command = {.kind = UDPRING_COMMAND_KEYPAIR, .peer = peer, .cipher = cipher, .local_index = local_index,
                                      .remote_index = remote_index, .initiator = initiator != 0, .birth_ns = birth_ns};
    memcpy(command.keys, keys, sizeof(command.keys));
    return run_single(plane, &command);
}

int32_t udpring_plane_send(struct udpring_plane *plane, uint32_t peer, const uint8_t *bytes, uint32_t length, uint8_t tos,
                           const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index,
                           const uint8_t *cookie_key)
{
    if (length > UDPRING_MESSAGE_MAX)
        return -EMSGSIZE;
    struct udpring_command command = {.kind = UDPRING_COMMAND_SEND, .peer = peer, .length = length, .tos = tos,
                                      .interface_index = interface_index, .awaits_cookie = cookie_key != NULL};
    memcpy(command.message, bytes, length);
    if (to)
        command.address = *to;
    if (from)
        command.local = *from;
    if (cookie_key)
        memcpy(command.cookie_key, cookie_key, sizeof(command.cookie_key));
    return run_single(plane, &command);
}
