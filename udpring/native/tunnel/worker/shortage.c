#include "shortage.h"

#include <poll.h>
#include <unistd.h>

#include "../limits.h"

int shortage_pause(struct shortage *shortage, int result, int wake_fd)
{
    uint64_t now = ur_clock_ns(CLOCK_BOOTTIME);
    if (!shortage->since)
        *shortage = (struct shortage){.since = now};
    if (now - shortage->since >= SHORTAGE_NS)
        return result;
    uint32_t doublings = shortage->passes < SHORTAGE_DOUBLINGS ? shortage->passes : SHORTAGE_DOUBLINGS;
    shortage->passes++;
    struct pollfd wake = {.fd = wake_fd, .events = POLLIN};
    struct timespec pause = {.tv_nsec = (long)(SHORTAGE_PAUSE_NS << doublings)};
    int ready = ppoll(&wake, 1, &pause, NULL);
    if (ready < 0)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);   /* short of memory for a poll, too */
    uint64_t count;
    if (ready > 0 && read(wake_fd, &count, sizeof(count)) < 0)
        count = 0;   /* the next pass looks at the list of commands anyway */
    return 0;
}
