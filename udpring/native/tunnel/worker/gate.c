/* The gate stops all workers but worker 0, which then changes the tables (state.h lists them).
 *
 * Each of the other workers holds its `running` lock during a pass, and gives it up before it waits. Only worker 0 contends
 * for that lock, and only here. Worker 0 shuts the gate and takes the lock of every other worker. The gate keeps a busy
 * worker from taking its own lock again first. Worker 0 holds no other lock here, so this cannot deadlock.
 * With a single worker all of this is skipped. */
#include "gate.h"

void exclusive_enter(struct worker *worker)
{
    struct udpring_plane *plane = worker->plane;
    if (worker->number == 0)
        return;
    for (;;) {
        while (ur_unlikely(__atomic_load_n(&plane->gate_shut, __ATOMIC_ACQUIRE))) {
            pthread_mutex_lock(&plane->gate);
            pthread_mutex_unlock(&plane->gate);
        }
        pthread_mutex_lock(&worker->running);
        if (ur_likely(!__atomic_load_n(&plane->gate_shut, __ATOMIC_ACQUIRE)))
            return;
        pthread_mutex_unlock(&worker->running);   /* shut in between: worker 0 goes first */
    }
}

void exclusive_leave(struct worker *worker)
{
    if (worker->number != 0)
        pthread_mutex_unlock(&worker->running);
}

void exclusive_begin(struct udpring_plane *plane)
{
    if (!plane_shared(plane))
        return;
    pthread_mutex_lock(&plane->gate);
    __atomic_store_n(&plane->gate_shut, 1, __ATOMIC_RELEASE);
    for (uint32_t i = 1; i < plane->worker_count; i++)
        pthread_mutex_lock(&plane->workers[i].running);
}

void exclusive_end(struct udpring_plane *plane)
{
    if (!plane_shared(plane))
        return;
    __atomic_store_n(&plane->gate_shut, 0, __ATOMIC_RELEASE);
    for (uint32_t i = 1; i < plane->worker_count; i++)
        pthread_mutex_unlock(&plane->workers[i].running);
    pthread_mutex_unlock(&plane->gate);
}
