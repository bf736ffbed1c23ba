/* Changes that packets want and worker 0 makes, where there are several workers. */
#include "change_queue.h"

#include "command.h"

bool change_queued(struct worker *worker, const struct change *change)
{
    struct udpring_plane *plane = worker->plane;
    if (!plane_shared(plane))
        return false;
    pthread_mutex_lock(&plane->change_lock);
    uint32_t count = plane->change_count;
    if (count < CHANGES_MAX) {   /* full: the peer's next packet asks again */
        plane->changes[count] = *change;
        __atomic_store_n(&plane->change_count, count + 1, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&plane->change_lock);
    if (count == 0 && worker->number != 0)
        worker_wake(&plane->workers[0]);
    return true;
}
