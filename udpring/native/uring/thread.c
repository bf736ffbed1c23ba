#include "thread.h"

#include <errno.h>
#include <pthread.h>

static uint64_t last_number;
static __thread uint64_t own_number;

static pthread_once_t watch_once = PTHREAD_ONCE_INIT;
static int watch_error;
static uint32_t forks;

uint64_t ur_thread_number(void)
{
    if (!own_number)
        own_number = __atomic_add_fetch(&last_number, 1, __ATOMIC_RELAXED);
    return own_number;
}

static void in_child(void)
{
    __atomic_add_fetch(&forks, 1, __ATOMIC_RELAXED);
}

static void watch(void)
{
    watch_error = -pthread_atfork(NULL, NULL, in_child);
}

int ur_fork_watch(void)
{
    pthread_once(&watch_once, watch);
    return watch_error;
}

uint32_t ur_fork_count(void)
{
    return __atomic_load_n(&forks, __ATOMIC_RELAXED);
}
