/* Changes the state of a live plane, so that limits of messages and of time can be reached. The plane may be the one of the
 * product's module: its worker runs the functions below. */
#include <poll.h>
#include <unistd.h>

#include "abi.h"
#include "tunnel/worker/command.h"
#include "tunnel/worker/peers.h"
#include "tunnel/worker/spread.h"

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

/* ---- one flow on several cores ---- */

/* Owner: this file. Threads: set before a key is changed, read by all workers; the last row is atomic. Nothing to free. */
static struct {
    struct aead_impl impl;
    const struct aead_impl *real;
    uint32_t fail_every, delay_us;
    int32_t second_fd;
    uint32_t calls, reported;
    pthread_t first;
} hindered;

/* True once, in the second thread that comes. */
static bool is_second(void)
{
    pthread_t none = 0, self = pthread_self();
    return !__atomic_compare_exchange_n(&hindered.first, &none, self, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED) &&
           none != self && !__atomic_exchange_n(&hindered.reported, 1, __ATOMIC_RELAXED);
}

static void hinder(struct aead_op *ops)
{
    if (hindered.second_fd >= 0 && is_second() && write(hindered.second_fd, "", 1) != 1)
        ops->result = -EIO;
    struct timespec delay = {.tv_nsec = hindered.delay_us * 1000l};
    if (hindered.delay_us)
        nanosleep(&delay, NULL);
    if (hindered.fail_every && __atomic_add_fetch(&hindered.calls, 1, __ATOMIC_RELAXED) % hindered.fail_every == 0)
        ops->result = -EIO;
}

static void hindered_seal(struct aead_key *key, struct aead_op *ops, unsigned count)
{
    hindered.real->seal(key, ops, count);
    hinder(ops);
}

static void hindered_open(struct aead_key *key, struct aead_op *ops, unsigned count)
{
    hindered.real->open(key, ops, count);
    hinder(ops);
}

struct hinder_arguments {
    uint32_t peer, fail_every, delay_us;
    int32_t second_fd;
};

static int run_test_hinder(struct worker *worker, void *argument)
{
    const struct hinder_arguments *arguments = argument;
    struct peer *peer = plane_peer(worker->plane, arguments->peer);
    if (!peer || !peer->current)
        return -ENOENT;
    struct keypair *keypair = peer->current;
    const struct aead_impl *impl = keypair->sending[0]->impl;
    if (impl != &hindered.impl)
        hindered.real = impl;
    hindered.impl = *hindered.real;
    hindered.impl.seal = hindered_seal;
    hindered.impl.open = hindered_open;
    hindered.fail_every = arguments->fail_every;
    hindered.delay_us = arguments->delay_us;
    hindered.second_fd = arguments->second_fd;
    hindered.calls = hindered.reported = 0;
    hindered.first = 0;
    for (uint32_t i = 0; i < worker->plane->worker_count; i++)
        keypair->sending[i]->impl = keypair->receiving[i]->impl = &hindered.impl;
    return 0;
}

int32_t udpring_plane_test_hinder(struct udpring_plane *plane, uint32_t peer, uint32_t fail_every, uint32_t delay_us,
                                  int32_t second_fd)
{
    struct hinder_arguments arguments = {peer, fail_every, delay_us, second_fd};
    return plane_call(plane, run_test_hinder, &arguments);
}

static int run_test_spread(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    const int32_t *mode = argument;
    for (uint32_t i = 0; i < plane->worker_count; i++) {
        if (!plane->workers[i].spread)
            return -ENOENT;
        plane->workers[i].spread->forced = true;
        plane->workers[i].spread_on = *mode != 0;
        plane->workers[i].spread->helpers = *mode == 2 ? SPREAD_HELPERS : 0;
    }
    return 0;
}

int32_t udpring_plane_test_spread(struct udpring_plane *plane, int32_t mode)
{
    return plane_call(plane, run_test_spread, &mode);
}
