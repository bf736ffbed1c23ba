/* Commands of abi.h that set the tables up. Each packs its arguments, runs on worker 0, and returns the result.
 * command_batch.c has those of handshakes. */
#include "command.h"
#include "peers.h"
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

static int trains_on(struct worker *worker, struct peer *peer)
{
    peer->sends_singly = worker->plane->options.flags & UDPRING_PLANE_NO_UDP_OFFLOAD;
    peer_trains_anew(peer);
    return 0;
}

static int trains_off(struct worker *worker, struct peer *peer)
{
    peer->sends_singly = true;
    __atomic_store_n(&worker->plane->some_singly, true, __ATOMIC_RELAXED);
    peer_trains_anew(peer);
    return 0;
}

int32_t udpring_plane_peer_trains(struct udpring_plane *plane, uint32_t peer, int32_t on)
{
    return on_peer(plane, peer, on ? trains_on : trains_off);
}

int32_t udpring_plane_peer_remove(struct udpring_plane *plane, uint32_t peer)
{
    return on_peer(plane, peer, peer_remove);
}

int32_t udpring_plane_prefixes_clear(struct udpring_plane *plane, uint32_t peer)
{
    return on_peer(plane, peer, prefixes_clear);
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

/* ---- indices ---- */

struct index_arguments {
    uint32_t peer, count;
    uint32_t *indices;
};

static int run_indices(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct index_arguments *arguments = argument;
    int error = 0;
    if (arguments->peer != UDPRING_PEER_NONE && !plane_peer(plane, arguments->peer))
        return -ENOENT;
    uint32_t made = 0;
    while (made < arguments->count && !(error = index_table_new(&plane->indices, arguments->peer, &arguments->indices[made])))
        made++;
    while (error && made)
        index_table_remove(&plane->indices, arguments->indices[--made]);
    return error;
}

int32_t udpring_plane_indices(struct udpring_plane *plane, uint32_t peer, uint32_t *indices, uint32_t count)
{
    struct index_arguments arguments = {peer, count, indices};
    return plane_call(plane, run_indices, &arguments);
}
