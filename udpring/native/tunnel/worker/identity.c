/* Command: the node's own keys for mac1 and cookies. */
#include "command.h"

struct identity_arguments {
    const uint8_t *mac1_key, *cookie_key;
};

static int run_identity(struct worker *worker, void *argument)
{
    struct udpring_plane *plane = worker->plane;
    const struct identity_arguments *arguments = argument;
    plane->has_identity = arguments->mac1_key && arguments->cookie_key;
    if (plane->has_identity) {
        memcpy(plane->mac1_key, arguments->mac1_key, sizeof(plane->mac1_key));
        memcpy(plane->cookie_key, arguments->cookie_key, sizeof(plane->cookie_key));
    }
    return 0;
}

int32_t udpring_plane_identity(struct udpring_plane *plane, const uint8_t *mac1_key, const uint8_t *cookie_key)
{
    struct identity_arguments arguments = { mac1_key, cookie_key };
    return plane_call(plane, run_identity, &arguments);
}
