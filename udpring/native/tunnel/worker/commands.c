/* The commands of abi.h. Each packs its arguments, runs on worker 0, and returns the result. */
#include <netinet/in.h>

#include "command.h"
#include "cookies.h"
#include "paths.h"
#include "peers.h"
#include "roaming.h"
#include "seal.h"
#include "staged.h"
#include "stamps.h"
#include "wanted.h"

/* ---- peers ---- */

static int run_peer_add(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    return plane_peer_add(plane, argument);
}

int32_t udpring_plane_peer_add(struct udpring_plane *plane, uint32_t *peer)
{
    return plane_call(plane, run_peer_add, peer);
}

/* The commands that take a peer and nothing else share this shape. */
struct peer_arguments {
    uint32_t peer;
    int (*run)(struct worker *worker, struct peer *peer);
};

static int run_on_peer(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct peer_arguments *arguments = argument;
    struct peer *peer = plane_peer(plane, arguments->peer);
    return peer ? arguments->run(worker, peer) : -ENOENT;
}

static int32_t on_peer(struct udpring_plane *plane, uint32_t peer, int (*run)(struct worker *, struct peer *))
{
    struct peer_arguments arguments = {peer, run};
    return plane_call(plane, run_on_peer, &arguments);
}

static int peer_remove(struct worker *worker, struct peer *peer)
{
    struct udpring_plane *plane = worker->plane;
    plane_peer_remove(plane, peer);
    return 0;
}

static int prefixes_clear(struct worker *worker, struct peer *peer)
{
    struct udpring_plane *plane = worker->plane;
    trie_remove_peer(plane->trie, peer->id);
    return 0;
}

/* An earlier request for a key is void now: the next packet asks at once. */
static void forget_asking(struct peer *peer)
{
    peer->wanted_ns = 0;
}

static int keys_erase(struct worker *worker, struct peer *peer)
{
    struct udpring_plane *plane = worker->plane;
    peer_keypairs_erase(peer, &plane->indices);
    forget_asking(peer);
    return 0;
}

static int keys_expire(struct worker *worker, struct peer *peer)
{
    struct udpring_plane *plane = worker->plane;
    keypair_free(peer->next, &plane->indices);
    peer->next = NULL;
    if (peer->current)
        peer->current->may_send = false;
    forget_asking(peer);
    return 0;
}

static int source_clear(struct worker *worker, struct peer *peer)
{
    peer_forget_source(worker->plane, peer);
    peer_ask_path(worker->plane, peer);
    return 0;
}

static int run_staged_drop(struct worker *worker, struct peer *peer)
{
    staged_drop(worker, peer, UDPRING_DROP_HANDSHAKE_FAILED);
    forget_asking(peer);
    return 0;
}

int32_t udpring_plane_peer_remove(struct udpring_plane *plane, uint32_t peer)
{
    return on_peer(plane, peer, peer_remove);
}

int32_t udpring_plane_prefixes_clear(struct udpring_plane *plane, uint32_t peer)
{
    return on_peer(plane, peer, prefixes_clear);
}

int32_t udpring_plane_keys_erase(struct udpring_plane *plane, uint32_t peer)
{
    return on_peer(plane, peer, keys_erase);
}

int32_t udpring_plane_keys_expire(struct udpring_plane *plane, uint32_t peer)
{
    return on_peer(plane, peer, keys_expire);
}

int32_t udpring_plane_keepalive(struct udpring_plane *plane, uint32_t peer)
{
    return on_peer(plane, peer, staged_keepalive);
}

int32_t udpring_plane_source_clear(struct udpring_plane *plane, uint32_t peer)
{
    return on_peer(plane, peer, source_clear);
}

int32_t udpring_plane_staged_drop(struct udpring_plane *plane, uint32_t peer)
{
    return on_peer(plane, peer, run_staged_drop);
}

struct endpoint_arguments {
    uint32_t peer, bytes, interface_index;
    bool received;
    const struct udpring_address *endpoint, *local;
    struct path path;
};

/* In the caller's thread, so that no worker waits for the kernel's answer. */
static void look_up(struct udpring_plane *plane, struct endpoint_arguments *arguments)
{
    struct path_query query;
    path_query_of(plane, arguments->endpoint->family, &query);
    query.endpoint = *arguments->endpoint;
    query.heard_on = *arguments->local;
    query.heard_by = arguments->interface_index;
    routes_choose(&plane->routes, &query, &arguments->path);
}

static int run_endpoint(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct endpoint_arguments *arguments = argument;
    struct peer *peer = plane_peer(plane, arguments->peer);
    if (!peer)
        return -ENOENT;
    const struct udpring_address former = peer->endpoint;
    peer_roam(plane, peer, arguments->endpoint, arguments->local, arguments->interface_index);
    peer_take_path(worker, peer, &arguments->path, false);
    if (arguments->received) {
        peer_stamp_received(worker, peer, arguments->bytes);
        roaming_report(worker, peer, &former);
    }
    return 0;
}

int32_t udpring_plane_endpoint(struct udpring_plane *plane, uint32_t peer, const struct udpring_address *endpoint)
{
    const struct udpring_address none = {0};
    if (endpoint->family && endpoint->family != AF_INET && endpoint->family != AF_INET6)
        return -EAFNOSUPPORT;
    struct endpoint_arguments arguments = {.peer = peer, .endpoint = endpoint, .local = &none};
    look_up(plane, &arguments);
    return plane_call(plane, run_endpoint, &arguments);
}

int32_t udpring_plane_authenticated(struct udpring_plane *plane, uint32_t peer, uint32_t bytes, const struct udpring_address *source,
                                    const struct udpring_address *local, uint32_t interface_index)
{
    const struct udpring_address none = {0};
    struct endpoint_arguments arguments = {.peer = peer, .bytes = bytes, .interface_index = interface_index, .received = true,
                                           .endpoint = source, .local = local ? local : &none};
    look_up(plane, &arguments);
    return plane_call(plane, run_endpoint, &arguments);
}

/* ---- allowed IPs ---- */

struct prefix_arguments {
    const struct udpring_prefix *in;
    struct udpring_prefix *out;
    uint32_t peer, count;
    uint32_t *done;
};

static int run_prefixes(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct prefix_arguments *arguments = argument;
    *arguments->done = 0;
    for (uint32_t i = 0; i < arguments->count; i++)
        if (!plane_peer(plane, arguments->in[i].peer))
            return -ENOENT;
    int result = trie_apply(plane->trie, arguments->in, arguments->count, arguments->done);
    if (result == 0 && worker->wanted)
        wanted_release(plane);
    return result;
}

int32_t udpring_plane_prefixes(struct udpring_plane *plane, const struct udpring_prefix *prefixes, uint32_t count, uint32_t *done)
{
    struct prefix_arguments arguments = {.in = prefixes, .count = count, .done = done};
    return plane_call(plane, run_prefixes, &arguments);
}

static int run_prefixes_list(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct prefix_arguments *arguments = argument;
    *arguments->done = trie_list(plane->trie, arguments->peer, arguments->out, arguments->count);
    return 0;
}

uint32_t udpring_plane_prefixes_list(struct udpring_plane *plane, uint32_t peer, struct udpring_prefix *out, uint32_t max)
{
    uint32_t count = 0;
    struct prefix_arguments arguments = {.out = out, .peer = peer, .count = max, .done = &count};
    plane_call(plane, run_prefixes_list, &arguments);
    return count;
}

/* ---- indices and keys ---- */

struct index_arguments {
    uint32_t peer;
    uint32_t *index;
};

static int run_index_new(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct index_arguments *arguments = argument;
    if (!plane_peer(plane, arguments->peer))
        return -ENOENT;
    return index_table_new(&plane->indices, arguments->peer, arguments->index);
}

int32_t udpring_plane_index_new(struct udpring_plane *plane, uint32_t peer, uint32_t *index)
{
    struct index_arguments arguments = {peer, index};
    return plane_call(plane, run_index_new, &arguments);
}

static int run_index_release(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    uint32_t index = *(uint32_t *)argument;
    struct index_entry *entry = index_table_find(&plane->indices, index);
    if (!entry)
        return -ENOENT;
    if (entry->keypair)
        return -EBUSY;   /* it lives as long as its keypair */
    index_table_remove(&plane->indices, index);
    return 0;
}

int32_t udpring_plane_index_release(struct udpring_plane *plane, uint32_t index)
{
    return plane_call(plane, run_index_release, &index);
}

struct keypair_arguments {
    uint32_t peer;
    struct keypair_spec spec;
};

static int run_keypair(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct keypair_arguments *arguments = argument;
    struct peer *peer = plane_peer(plane, arguments->peer);
    struct index_entry *entry = index_table_find(&plane->indices, arguments->spec.local_index);
    if (!peer || !entry || entry->peer != arguments->peer)
        return -ENOENT;
    if (entry->keypair)
        return -EEXIST;
    struct keypair *keypair;
    int error = keypair_new(&keypair, plane->worker_count, &arguments->spec);
    if (error)
        return error;
    keypair->peer = peer->id;
    entry->keypair = keypair;
    peer_keypair_add(peer, keypair, &plane->indices);
    peer->wanted_ns = 0;
    peer->trains = TRAINS_NOT_ASKED;   /* a new session asks the route again */
    if (!keypair->initiator)   /* a responder sends only once the peer has proved that it has the key */
        return 0;
    cookies_forget(peer);
    return staged_release(worker, peer);
}

int32_t udpring_plane_keypair(struct udpring_plane *plane, uint32_t peer, int32_t cipher, const uint8_t *keys,
                              uint32_t local_index, uint32_t remote_index, int32_t initiator, uint64_t birth_ns)
{
    if (cipher < 0 || cipher >= UDPRING_CIPHER_COUNT)
        return -EINVAL;
    struct keypair_arguments arguments = {peer, {keys, (enum udpring_cipher)cipher, local_index, remote_index,
                                                 initiator != 0, birth_ns}};
    return plane_call(plane, run_keypair, &arguments);
}

/* ---- sending ---- */

struct send_arguments {
    uint32_t peer, length, interface_index;
    const uint8_t *bytes;
    uint8_t tos;
    const struct udpring_address *to, *from;
    const uint8_t *cookie_key;
};

static int run_send(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct send_arguments *send = argument;
    struct peer *peer = send->peer == UDPRING_PEER_NONE ? NULL : plane_peer(plane, send->peer);
    if (!peer && (send->peer != UDPRING_PEER_NONE || !send->to))
        return -ENOENT;
    const struct udpring_address *to = send->to, *from = send->from;
    uint32_t interface_index = send->interface_index;
    if (to && peer && memcmp(to, &peer->endpoint, sizeof(*to)) == 0)
        to = NULL;   /* it was looked up when the message that this answers was found authentic */
    else if (to)
        interface_index = routes_reply_interface(&plane->routes, to, from ? from : to, interface_index);
    int result = seal_message(worker, peer, send->bytes, send->length, send->tos, to, from, interface_index);
    if (result == 0 && peer && send->cookie_key)
        cookies_await(peer, send->bytes, send->length, send->cookie_key);
    return result;
}

int32_t udpring_plane_send(struct udpring_plane *plane, uint32_t peer, const uint8_t *bytes, uint32_t length, uint8_t tos,
                           const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index,
                           const uint8_t *cookie_key)
{
    if (length > UDPRING_MESSAGE_MAX || (cookie_key && length < WG_RESPONSE_BYTES))
        return -EMSGSIZE;
    struct send_arguments arguments = {peer, length, interface_index, bytes, tos, to, from, cookie_key};
    return plane_call(plane, run_send, &arguments);
}
