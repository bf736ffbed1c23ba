/* Commands: how any thread has the worker do something between two passes.
 * The caller sleeps until it is done, so a command may point at the caller's stack, and nothing needs a lock but this list. */
#include <unistd.h>

#include "plane.h"

void plane_wake(struct udpring_plane *plane)
{
    uint64_t one = 1;
    ssize_t written;
    do
        written = write(plane->wake_fd, &one, sizeof(one));
    while (written < 0 && errno == EINTR);   /* EAGAIN: it is raised already */
}

int plane_call(struct udpring_plane *plane, int (*run)(struct udpring_plane *, void *), void *argument)
{
    struct command command = {.run = run, .argument = argument};
    pthread_mutex_lock(&plane->command_lock);
    if (plane->command_last)
        plane->command_last->next = &command;
    else
        plane->command_first = &command;
    plane->command_last = &command;
    __atomic_store_n(&plane->command_waiting, 1, __ATOMIC_RELEASE);
    plane_wake(plane);
    while (!command.done)
        pthread_cond_wait(&plane->command_done, &plane->command_lock);
    pthread_mutex_unlock(&plane->command_lock);
    return command.result;
}

void plane_run_commands(struct udpring_plane *plane)
{
    if (ur_likely(!__atomic_load_n(&plane->command_waiting, __ATOMIC_ACQUIRE)))
        return;
    pthread_mutex_lock(&plane->command_lock);
    struct command *command = plane->command_first;
    plane->command_first = plane->command_last = NULL;
    __atomic_store_n(&plane->command_waiting, 0, __ATOMIC_RELEASE);
    while (command) {
        struct command *next = command->next;   /* after done the caller's stack is gone */
        plane->stats.commands++;
        pthread_mutex_unlock(&plane->command_lock);
        int result = command->run(plane, command->argument);
        pthread_mutex_lock(&plane->command_lock);
        command->result = result;
        command->done = true;
        command = next;
    }
    pthread_cond_broadcast(&plane->command_done);
    pthread_mutex_unlock(&plane->command_lock);
}
