/* Commands: how any thread has a worker do something between two passes.
 * The caller sleeps until it is done, so a command may point at the caller's stack, and nothing needs a lock but the lists. */
#include "command.h"

#include <unistd.h>

#include "gate.h"

void worker_wake(struct worker *worker)
{
    uint64_t one = 1;
    ssize_t written;
    do
        written = write(worker->wake_fd, &one, sizeof(one));
    while (written < 0 && errno == EINTR);   /* EAGAIN: it is raised already */
}

int worker_call(struct worker *worker, int (*run)(struct worker *, void *), void *argument)
{
    struct udpring_plane *plane = worker->plane;
    struct command command = {.run = run, .argument = argument};
    pthread_mutex_lock(&plane->command_lock);
    if (worker->command_last)
        worker->command_last->next = &command;
    else
        worker->command_first = &command;
    worker->command_last = &command;
    __atomic_store_n(&worker->command_waiting, 1, __ATOMIC_RELEASE);
    worker_wake(worker);
    while (!command.done)
        pthread_cond_wait(&plane->command_done, &plane->command_lock);
    pthread_mutex_unlock(&plane->command_lock);
    return command.result;
}

struct exclusive_call {
    int (*run)(struct worker *worker, void *argument);
    void *argument;
};

static int run_exclusive(struct worker *worker, void *argument)
{
    struct exclusive_call *call = argument;
    exclusive_begin(worker->plane);
    int result = call->run(worker, call->argument);
    exclusive_end(worker->plane);
    return result;
}

int plane_call(struct udpring_plane *plane, int (*run)(struct worker *, void *), void *argument)
{
    struct exclusive_call call = {run, argument};
    return worker_call(&plane->workers[0], run_exclusive, &call);
}

void worker_run_commands(struct worker *worker)
{
    struct udpring_plane *plane = worker->plane;
    if (ur_likely(!__atomic_load_n(&worker->command_waiting, __ATOMIC_ACQUIRE)))
        return;
    pthread_mutex_lock(&plane->command_lock);
    struct command *command = worker->command_first;
    worker->command_first = worker->command_last = NULL;
    __atomic_store_n(&worker->command_waiting, 0, __ATOMIC_RELEASE);
    while (command) {
        struct command *next = command->next;   /* after done the caller's stack is gone */
        worker->stats.commands++;
        pthread_mutex_unlock(&plane->command_lock);
        int result = command->run(worker, command->argument);
        pthread_mutex_lock(&plane->command_lock);
        command->result = result;
        command->done = true;
        command = next;
    }
    pthread_cond_broadcast(&plane->command_done);
    pthread_mutex_unlock(&plane->command_lock);
}
