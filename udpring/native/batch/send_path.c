#include "send_path.h"

#include <stdlib.h>

#include "send_job.h"

#define FORGET_NS 60000000000ull   /* a refusal is valid for a minute */

static const struct udpring_address peer;   /* represents the peer of a connected socket */

int send_paths_open(struct send_paths *paths, uint64_t seed)
{
    paths->seed = seed;
    paths->path = calloc(SEND_PATHS, sizeof(*paths->path));
    return paths->path ? 0 : -ENOMEM;
}

void send_paths_free(struct send_paths *paths)
{
    free(paths->path);
}

static uint32_t place(const struct send_paths *paths, const struct udpring_address *to)
{
    return (uint32_t)send_address_hash(to, paths->seed) & (SEND_PATHS - 1);
}

bool send_path_takes(struct send_paths *paths, const struct udpring_address *to, uint32_t segment)
{
    to = to ? to : &peer;
    struct send_path *path = &paths->path[place(paths, to)];
    if (ur_likely(!path->refused) || !send_address_equal(&path->to, to))
        return true;
    if (ur_clock_ns(CLOCK_MONOTONIC) >= path->forget)
        path->refused = 0;
    return !path->refused || segment < path->refused;
}

bool send_path_refuses(const struct send_paths *paths, const struct udpring_address *to, uint32_t segment)
{
    to = to ? to : &peer;
    const struct send_path *path = &paths->path[place(paths, to)];
    return path->refused && segment >= path->refused && send_address_equal(&path->to, to);
}

bool send_path_must_wait(const struct send_paths *paths, const struct udpring_address *to, uint32_t segment, bool ordered)
{
    if (ur_likely(!paths->outstanding))
        return false;
    to = to ? to : &peer;
    const struct send_path *path = &paths->path[place(paths, to)];
    if (ordered && path->outstanding != paths->outstanding)
        return true;
    if (!path->outstanding)
        return false;
    if (!send_address_equal(&path->to, to))
        return ordered || segment != 0;   /* another destination has its entry, so a train could not be recorded */
    return segment < path->highest;
}

uint32_t send_path_sent(struct send_paths *paths, const struct udpring_address *to, uint32_t segment)
{
    to = to ? to : &peer;
    uint32_t at = place(paths, to);
    struct send_path *path = &paths->path[at];
    if (!send_address_equal(&path->to, to))
        *path = (struct send_path){.to = *to};
    if (ur_likely(segment <= path->proven))
        return SEND_PATH_NONE;
    path->outstanding++;
    paths->outstanding++;
    if (segment > path->highest)
        path->highest = segment;
    return at;
}

void send_path_ended(struct send_paths *paths, uint32_t at, uint32_t segment, bool sent)
{
    struct send_path *path = &paths->path[at];
    if (sent && segment > path->proven)
        path->proven = segment;
    paths->outstanding--;
    if (!--path->outstanding)
        path->highest = 0;
}

void send_path_refused(struct send_paths *paths, const struct udpring_address *to, uint32_t segment, int32_t error)
{
    to = to ? to : &peer;
    struct send_path *path = &paths->path[place(paths, to)];
    if (!send_address_equal(&path->to, to)) {
        if (path->outstanding)
            return;   /* not recorded: the next train will be refused as well */
        *path = (struct send_path){.to = *to};
    }
    if (error != -EMSGSIZE)
        path->refused = 1;
    else if (!path->refused || segment < path->refused)
        path->refused = segment;
    if (path->proven >= path->refused)
        path->proven = path->refused - 1;
    path->forget = ur_clock_ns(CLOCK_MONOTONIC) + FORGET_NS;
}
