/* Commands that the control loop gives in batches: what it does about handshakes, keys, endpoints and messages.
 *
 * 1. The caller fills an array of struct udpring_command in order.
 * 2. The caller's own thread looks up the routes of new endpoints, because no worker may wait for the kernel (routes.h).
 * 3. Worker 0 runs all of them between two passes, with all workers stopped, and writes a result into each.
 * So a turn of the control loop wakes the worker once, and not once a command. A command that fails does not stop the others. */
#include <netinet/in.h>

#include "command.h"
#include "cookies.h"
#include "paths.h"
#include "roaming.h"
#include "seal.h"
#include "staged.h"
#include "stamps.h"

/* Owner: the caller, on its stack. Thread: the caller's, and worker 0's in between. Nothing to free. */
struct batch {
    struct udpring_command *commands;
    uint32_t count;
    uint32_t opened;                   /* the peer whose staged packets left on a keypair of this batch, or UDPRING_PEER_NONE */
    struct path paths[UDPRING_COMMANDS_MAX];   /* of commands that set an endpoint */
};

/* ---- keys ---- */

/* An earlier request for a key is void now: the next packet asks at once. */
static void forget_asking(struct peer *peer)
{
    peer->wanted_ns = 0;
}

static int keys_erase(struct worker *worker, struct peer *peer)
{
    peer_keypairs_erase(peer, &worker->plane->indices);
    forget_asking(peer);
    return 0;
}

static int keys_expire(struct worker *worker, struct peer *peer)
{
    keypair_free(peer->next, &worker->plane->indices);
    peer->next = NULL;
    if (peer->current)
        peer->current->may_send = false;
    forget_asking(peer);
    return 0;
}

static int keypair(struct worker *worker, struct peer *peer, const struct udpring_command *command)
{
    struct udpring_plane *plane = worker->plane;
    struct index_entry *entry = index_table_find(&plane->indices, command->local_index);
    if (!entry || !index_table_claim(&plane->indices, entry, peer->id))
        return -ENOENT;
    if (entry->keypair)
        return -EEXIST;
    struct keypair_spec spec = {command->keys, (enum udpring_cipher)command->cipher, command->local_index,
                                command->remote_index, command->initiator != 0, command->birth_ns};
    struct keypair *keypair;
    int error = keypair_new(&keypair, plane->worker_count, &spec);
    if (error)
        return error;
    keypair->peer = peer->id;
    entry->keypair = keypair;
    peer_keypair_add(peer, keypair, &plane->indices);
    forget_asking(peer);
    peer_trains_anew(peer);
    peer->probe_group = 0;   /* counters begin again */
    if (!keypair->initiator)   /* a responder sends only once the peer has proved that it has the key */
        return 0;
    cookies_forget(peer);
    return staged_release(worker, peer);
}

static int index_release(struct worker *worker, uint32_t index)
{
    struct index_table *indices = &worker->plane->indices;
    struct index_entry *entry = index_table_find(indices, index);
    if (!entry)
        return -ENOENT;
    if (entry->keypair)
        return -EBUSY;   /* it lives as long as its keypair */
    index_table_remove(indices, index);
    return 0;
}

/* ---- endpoints ---- */

static bool has_family(const struct udpring_address *address)
{
    return !address->family || address->family == AF_INET || address->family == AF_INET6;
}

static void look_up(struct udpring_plane *plane, const struct udpring_command *command, struct path *path)
{
    struct path_query query;
    bool sets_endpoint = command->kind == UDPRING_COMMAND_ENDPOINT || command->kind == UDPRING_COMMAND_AUTHENTICATED;
    if (!sets_endpoint || !has_family(&command->address))
        return;
    path_query_of(plane, command->address.family, &query);
    query.endpoint = command->address;
    query.heard_on = command->local;
    query.heard_by = command->interface_index;
    routes_choose(&plane->routes, &query, path);
}

static int endpoint(struct worker *worker, struct peer *peer, const struct udpring_command *command, const struct path *path)
{
    const struct udpring_address former = peer->endpoint;
    peer_roam(worker->plane, peer, &command->address, &command->local, command->interface_index);
    peer_take_path(worker, peer, path, false);
    if (ur_unlikely(routes_have_changed(&worker->plane->routes, path)))   /* the look at all peers may have come before this */
        peer_ask_path(worker->plane, peer);
    if (command->kind == UDPRING_COMMAND_AUTHENTICATED) {
        peer_stamp_received(worker, peer, command->length);
        roaming_report(worker, peer, &former);
    }
    return 0;
}

static int source_clear(struct worker *worker, struct peer *peer)
{
    peer_forget_source(worker->plane, peer);
    peer_ask_path(worker->plane, peer);
    return 0;
}

/* ---- sending ---- */

/* The slots that earlier messages of the batch took come back once those are sent. */
static void make_room(struct worker *worker)
{
    if (ur_likely(worker->out_free_count))
        return;
    do
        (void)udp_tx_flush(worker->tx);
    while (seal_reap(worker));
}

/* Before an initiation leaves: its answer names this index. */
static void claim_index(struct worker *worker, const struct peer *peer, const struct udpring_command *command)
{
    if (command->message[0] != WG_TYPE_INITIATION || command->length != WG_INITIATION_BYTES)
        return;
    struct index_entry *entry = index_table_find(&worker->plane->indices, wg_le32(command->message + 4));
    if (entry)
        (void)index_table_claim(&worker->plane->indices, entry, peer->id);
}

static int message(struct worker *worker, struct peer *peer, const struct udpring_command *command)
{
    struct udpring_plane *plane = worker->plane;
    const struct udpring_address *to = command->address.family ? &command->address : NULL;
    const struct udpring_address *from = command->local.family ? &command->local : NULL;
    uint32_t interface_index = command->interface_index;
    if (!peer && !to)
        return -ENOENT;
    if (to && peer && memcmp(to, &peer->endpoint, sizeof(*to)) == 0)
        to = NULL;   /* it was looked up when the message that this answers was found authentic */
    else if (to)
        interface_index = routes_reply_interface(&plane->routes, to, from ? from : to, interface_index);
    if (peer)
        claim_index(worker, peer, command);
    make_room(worker);
    int result = seal_message(worker, peer, command->message, command->length, command->tos, to, from, interface_index);
    if (result == 0 && peer && command->awaits_cookie)
        cookies_await(peer, command->message, command->length, command->cookie_key);
    return result;
}

static int drop_staged(struct worker *worker, struct peer *peer)
{
    staged_drop(worker, peer, UDPRING_DROP_HANDSHAKE_FAILED);
    forget_asking(peer);
    return 0;
}

/* ---- the batch ---- */

static int check(const struct udpring_command *command)
{
    switch (command->kind) {
    case UDPRING_COMMAND_SEND:
        return command->length > UDPRING_MESSAGE_MAX || (command->awaits_cookie && command->length < WG_RESPONSE_BYTES) ? -EMSGSIZE : 0;
    case UDPRING_COMMAND_KEYPAIR:
        return command->cipher < 0 || command->cipher >= UDPRING_CIPHER_COUNT ? -EINVAL : 0;
    case UDPRING_COMMAND_AUTHENTICATED:
    case UDPRING_COMMAND_ENDPOINT:
        return has_family(&command->address) ? 0 : -EAFNOSUPPORT;
    default:
        return 0;
    }
}

static int run_one(struct worker *worker, struct batch *batch, const struct udpring_command *command, const struct path *path)
{
    int wrong = check(command);
    if (wrong)
        return wrong;
    struct peer *peer = command->peer == UDPRING_PEER_NONE ? NULL : plane_peer(worker->plane, command->peer);
    bool alone = command->kind == UDPRING_COMMAND_INDEX_RELEASE ||
                 (command->kind == UDPRING_COMMAND_SEND && command->peer == UDPRING_PEER_NONE);
    if (!peer && !alone)
        return -ENOENT;
    switch (command->kind) {
    case UDPRING_COMMAND_SEND: return message(worker, peer, command);
    case UDPRING_COMMAND_KEYPAIR: {
        make_room(worker);
        int result = keypair(worker, peer, command);
        batch->opened = result > 0 ? peer->id : UDPRING_PEER_NONE;
        return result;
    }
    case UDPRING_COMMAND_AUTHENTICATED:
    case UDPRING_COMMAND_ENDPOINT: return endpoint(worker, peer, command, path);
    case UDPRING_COMMAND_KEEPALIVE:
        if (batch->opened == peer->id) {
            batch->opened = UDPRING_PEER_NONE;
            return 1;
        }
        make_room(worker);
        return staged_keepalive(worker, peer);
    case UDPRING_COMMAND_KEYS_ERASE: return keys_erase(worker, peer);
    case UDPRING_COMMAND_KEYS_EXPIRE: return keys_expire(worker, peer);
    case UDPRING_COMMAND_SOURCE_CLEAR: return source_clear(worker, peer);
    case UDPRING_COMMAND_STAGED_DROP: return drop_staged(worker, peer);
    case UDPRING_COMMAND_INDEX_RELEASE: return index_release(worker, command->local_index);
    default: return -EINVAL;
    }
}

static int run_batch(struct worker *worker, void *argument)
{
    struct batch *batch = argument;
    for (uint32_t i = 0; i < batch->count; i++)
        batch->commands[i].result = run_one(worker, batch, &batch->commands[i], &batch->paths[i]);
    return 0;
}

int32_t udpring_plane_commands(struct udpring_plane *plane, struct udpring_command *commands, uint32_t count)
{
    if (count > UDPRING_COMMANDS_MAX)
        return -EINVAL;
    struct batch batch = {.commands = commands, .count = count, .opened = UDPRING_PEER_NONE};
    for (uint32_t i = 0; i < count; i++)
        look_up(plane, &commands[i], &batch.paths[i]);
    int result = plane_call(plane, run_batch, &batch);
    for (uint32_t i = 0; i < count; i++)
        if (commands[i].kind == UDPRING_COMMAND_KEYPAIR)
            explicit_bzero(commands[i].keys, sizeof(commands[i].keys));
    return result;
}

int32_t udpring_plane_endpoint(struct udpring_plane *plane, uint32_t peer, const struct udpring_address *endpoint)
{
    struct udpring_command command = {.kind = UDPRING_COMMAND_ENDPOINT, .peer = peer, .address = *endpoint};
    (void)udpring_plane_commands(plane, &command, 1);
    return command.result;
}
