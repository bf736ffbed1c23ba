/* Changes the state of a live plane, so that limits of messages and of time can be reached. The plane may be the one of the
 * product's module: its worker runs the functions below. */
#include <poll.h>
#include <unistd.h>

#include "abi.h"
#include "tunnel/worker/command.h"
#include "tunnel/worker/peers.h"

struct test_arguments {
    uint32_t peer;
    uint64_t value;
};

static int run_test_counter(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct test_arguments *arguments = argument;
    struct peer *peer = plane_peer(plane, arguments->peer);
    if (!peer || !peer->current)
        return -ENOENT;
    peer->current->counter = arguments->value;
    return 0;
}

static int run_test_blocks(struct worker *worker, void *argument)
{
    struct test_arguments *arguments = argument;
    struct peer *peer = plane_peer(worker->plane, arguments->peer);
    if (!peer || !peer->current)
        return -ENOENT;
    peer->current->blocks = arguments->value;
    return 0;
}

int32_t udpring_plane_test_blocks(struct udpring_plane *plane, uint32_t peer, uint64_t blocks)
{
    struct test_arguments arguments = {peer, blocks};
    return plane_call(plane, run_test_blocks, &arguments);
}

int32_t udpring_plane_test_counter(struct udpring_plane *plane, uint32_t peer, uint64_t counter)
{
    struct test_arguments arguments = {peer, counter};
    return plane_call(plane, run_test_counter, &arguments);
}

static int run_test_age(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct test_arguments *arguments = argument;
    struct peer *peer = plane_peer(plane, arguments->peer);
    if (!peer)
        return -ENOENT;
    struct keypair *keypairs[] = {peer->previous, peer->current, peer->next};
    for (size_t i = 0; i < UR_ARRAY_LENGTH(keypairs); i++)
        if (keypairs[i])
            keypairs[i]->birth_ns -= arguments->value;
    return 0;
}

int32_t udpring_plane_test_age(struct udpring_plane *plane, uint32_t peer, uint64_t age_ns)
{
    struct test_arguments arguments = {peer, age_ns};
    return plane_call(plane, run_test_age, &arguments);
}

static int run_test_cookie_age(struct worker *worker, void *argument)
{
    worker->plane->cookies.born_ns -= *(const uint64_t *)argument;
    return 0;
}

int32_t udpring_plane_test_cookie_age(struct udpring_plane *plane, uint64_t age_ns)
{
    return plane_call(plane, run_test_cookie_age, &age_ns);
}

static int run_test_hold(struct worker *worker, void *argument)
{
    const int32_t *fds = argument;
    struct pollfd until = {.fd = fds[1], .events = POLLIN};
    if (write(fds[0], "", 1) != 1)
        return -errno;
    return poll(&until, 1, 30000) == 1 ? 0 : -ETIME;
}

int32_t udpring_plane_test_hold(struct udpring_plane *plane, int32_t holds_fd, int32_t until_fd)
{
    int32_t fds[] = {holds_fd, until_fd};
    return plane_call(plane, run_test_hold, fds);
}
