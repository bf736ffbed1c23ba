/* Commands: peers added, removed and set up many at a time, as a set request of `wg` has them.
 *
 * 1. Worker 0 applies the allowed IPs of all blocks in order, and finds the endpoints that differ.
 * 2. The caller's own thread looks up the routes of those, because no worker may wait for the kernel (routes.h).
 * 3. Worker 0 sets these endpoints. Where none differs, step 1 was all.
 * A peer that is as its block says is not touched, so that its packets notice nothing. */
#include <stdlib.h>

#include "command.h"
#include "paths.h"
#include "peers.h"
#include "wanted.h"

/* ---- peers ---- */

struct peers_arguments {
    uint32_t *peers;
    const uint32_t *removed;
    uint32_t count;
};

static int run_peers_add(struct worker *worker, void *argument)
{
    struct peers_arguments *arguments = argument;
    for (uint32_t i = 0; i < arguments->count; i++) {
        int result = plane_peer_add(worker->plane, &arguments->peers[i]);
        if (result < 0)
            return i ? (int)i : result;
    }
    return (int)arguments->count;
}

int32_t udpring_plane_peers_add(struct udpring_plane *plane, uint32_t *peers, uint32_t count)
{
    struct peers_arguments arguments = {.peers = peers, .count = count};
    return count > UDPRING_BLOCKS_MAX ? -EINVAL : plane_call(plane, run_peers_add, &arguments);
}

static int run_peers_remove(struct worker *worker, void *argument)
{
    struct peers_arguments *arguments = argument;
    for (uint32_t i = 0; i < arguments->count; i++) {
        struct peer *peer = plane_peer(worker->plane, arguments->removed[i]);
        if (peer)
            plane_peer_remove(worker->plane, peer);
    }
    return 0;
}

int32_t udpring_plane_peers_remove(struct udpring_plane *plane, const uint32_t *peers, uint32_t count)
{
    struct peers_arguments arguments = {.removed = peers, .count = count};
    return count > UDPRING_BLOCKS_MAX ? -EINVAL : plane_call(plane, run_peers_remove, &arguments);
}

/* ---- blocks ---- */

/* Owner: the caller, on its stack. Thread: the caller's, and worker 0's in between. Nothing to free. */
struct application {
    const struct udpring_peer_blocks *read;
    const uint32_t *peers;
    uint32_t count;
    uint8_t *outcomes;
    uint32_t done;
    uint32_t moved_count;
    uint32_t moved[UDPRING_BLOCKS_MAX];        /* blocks whose endpoint differs */
    struct path paths[UDPRING_BLOCKS_MAX];     /* of those */
    /* room to work in: a worker's stack is no place for so much */
    struct udpring_prefix wanted[UDPRING_BLOCK_PREFIXES_MAX], present[UDPRING_BLOCK_PREFIXES_MAX];
};

static int ascending(const void *left, const void *right)
{
    const struct udpring_prefix *a = left, *b = right;
    if (a->family != b->family)
        return a->family == AF_INET ? -1 : 1;
    int order = memcmp(a->ip, b->ip, sizeof(a->ip));
    return order ? order : (int)a->cidr - (int)b->cidr;
}

/* Whether the peer has exactly the `count` prefixes in all->wanted. */
static bool has_exactly(const struct trie *trie, struct application *all, uint32_t peer, uint32_t count)
{
    struct udpring_prefix *wanted = all->wanted;
    if (trie_list(trie, peer, NULL, 0) > count)
        return false;
    uint32_t there = trie_list(trie, peer, all->present, count), different = count ? 1 : 0;
    qsort(wanted, count, sizeof(*wanted), ascending);
    for (uint32_t i = 1; i < count; i++)
        if (ascending(&wanted[i - 1], &wanted[i]) != 0)
            wanted[different++] = wanted[i];
    if (different != there)
        return false;
    for (uint32_t i = 0; i < there; i++)
        if (ascending(&all->present[i], &wanted[i]) != 0)
            return false;
    return true;
}

static int apply_prefixes(struct trie *trie, struct application *all, uint32_t number, bool *changed)
{
    const struct udpring_peer_block *block = &all->read->blocks[number];
    const struct udpring_prefix *listed = &all->read->prefixes[block->first_prefix];
    uint32_t peer = all->peers[number], count = block->prefix_count, applied;
    size_t bytes = count * sizeof(*listed);
    bool replaces = block->flags & UDPRING_BLOCK_REPLACE;
    memcpy(all->wanted, listed, bytes);
    if (replaces && has_exactly(trie, all, peer, count))
        return 0;
    *changed = replaces || count;
    if (replaces)
        trie_remove_peer(trie, peer);
    memcpy(all->wanted, listed, bytes);
    for (uint32_t i = 0; i < count; i++)
        all->wanted[i].peer = peer;
    return trie_apply(trie, all->wanted, count, &applied);
}

static bool same_endpoint(const struct udpring_address *a, const struct udpring_address *b)
{
    return a->family == b->family && a->port == b->port && a->scope_id == b->scope_id && memcmp(a->ip, b->ip, sizeof(a->ip)) == 0;
}

static int run_blocks(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct application *all = argument;
    bool some_changed = false;
    int result = 0;
    for (; all->done < all->count; all->done++) {
        const struct udpring_peer_block *block = &all->read->blocks[all->done];
        struct peer *peer = plane_peer(plane, all->peers[all->done]);
        if (!peer) {
            result = -ENOENT;
            break;
        }
        bool changed = false;
        result = apply_prefixes(plane->trie, all, all->done, &changed);
        some_changed |= changed;
        if (result < 0)
            break;
        if (block->flags & UDPRING_BLOCK_ENDPOINT) {
            if (!same_endpoint(&peer->endpoint, &block->endpoint)) {
                all->moved[all->moved_count++] = all->done;
                changed = true;
            } else if (peer->source.family) {
                /* Whoever sets an endpoint has the route decide the source again, as the kernel does. */
                peer_forget_source(plane, peer);
                peer_ask_path(plane, peer);
            }
        }
        all->outcomes[all->done] = changed ? UDPRING_BLOCK_CHANGED : 0;
    }
    if (some_changed && worker->wanted)
        wanted_release(plane);
    for (uint32_t i = 0; i < all->done; i++)
        all->outcomes[i] |= staged_count(worker, plane_peer(plane, all->peers[i])) ? UDPRING_BLOCK_STAGED : 0;
    return result;
}

static int run_moved(struct worker *worker, void *argument)
{
    static const struct udpring_address nowhere;
    struct udpring_plane *plane = worker->plane;
    struct application *all = argument;
    for (uint32_t i = 0; i < all->moved_count; i++) {
        struct peer *peer = plane_peer(plane, all->peers[all->moved[i]]);
        if (!peer)
            continue;
        peer_roam(plane, peer, &all->read->blocks[all->moved[i]].endpoint, &nowhere, 0);
        peer_take_path(worker, peer, &all->paths[i], false);
        if (ur_unlikely(routes_have_changed(&plane->routes, &all->paths[i])))   /* the look at all peers may have come before this */
            peer_ask_path(plane, peer);
    }
    return 0;
}

int32_t udpring_plane_blocks(struct udpring_plane *plane, const struct udpring_peer_blocks *blocks, const uint32_t *peers,
                             uint32_t count, uint8_t *outcomes, uint32_t *done)
{
    *done = 0;
    if (count > blocks->count || blocks->count > UDPRING_BLOCKS_MAX || blocks->prefix_count > UDPRING_BLOCK_PREFIXES_MAX)
        return -EINVAL;
    struct application all = {.read = blocks, .peers = peers, .count = count, .outcomes = outcomes};
    int result = plane_call(plane, run_blocks, &all);
    for (uint32_t i = 0; i < all.moved_count; i++) {
        struct path_query query;
        const struct udpring_address *endpoint = &blocks->blocks[all.moved[i]].endpoint;
        path_query_of(plane, endpoint->family, &query);
        query.endpoint = *endpoint;
        routes_choose(&plane->routes, &query, &all.paths[i]);
    }
    if (all.moved_count)
        (void)plane_call(plane, run_moved, &all);
    *done = all.done;
    return result;
}
