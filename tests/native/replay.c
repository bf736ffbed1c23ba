/* The replay window by itself. */
#include "tunnel/crypto/replay.h"

#include <stdlib.h>

#include "abi.h"

struct udpring_replay {
    struct replay_window window;
};

struct udpring_replay *udpring_replay_new(void)
{
    return calloc(1, sizeof(struct udpring_replay));
}

void udpring_replay_free(struct udpring_replay *window)
{
    free(window);
}

int32_t udpring_replay_check(const struct udpring_replay *window, uint64_t counter)
{
    return replay_check(&window->window, counter);
}

int32_t udpring_replay_update(struct udpring_replay *window, uint64_t counter)
{
    return replay_update(&window->window, counter);
}
