/* The jobs of a pass, which worker runs them, and how helpers are called. A worker claims a job by changing its state. */
#include "spread.h"

#include <sched.h>
#include <stdlib.h>

#include "command.h"

int spread_open(struct spread **opened)
{
    struct spread *spread = calloc(1, sizeof(*spread));
    if (!spread)
        return -ENOMEM;
    spread->helps = -1;
    *opened = spread;
    return 0;
}

void spread_close(struct spread *spread)
{
    free(spread);
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool claim(struct spread *spread, uint32_t number)
{
    uint32_t ready = SPREAD_READY;
    return __atomic_load_n(&spread->state[number], __ATOMIC_RELAXED) == SPREAD_READY &&
           __atomic_compare_exchange_n(&spread->state[number], &ready, SPREAD_BEGUN, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

static void set_done(struct spread *spread, uint32_t number)
{
    __atomic_store_n(&spread->state[number], SPREAD_DONE, __ATOMIC_RELEASE);
}

static bool run_if_ready(struct spread *spread, uint32_t number, uint32_t worker)
{
    if (!claim(spread, number))
        return false;
    spread->job[number].run(&spread->job[number], worker);
    set_done(spread, number);
    return true;
}

bool spread_take_back(struct spread *spread, uint32_t number)
{
    if (!claim(spread, number))
        return false;
    set_done(spread, number);
    return true;
}

static uint32_t ready_jobs(const struct spread *spread)
{
    uint32_t count = 0;
    for (uint32_t i = spread->done; i < spread->used; i++)
        count += __atomic_load_n(&spread->state[i], __ATOMIC_RELAXED) == SPREAD_READY;
    return count;
}

/* Wakes one sleeping worker. The search begins at the next number. */
static void call_one(struct worker *worker)
{
    struct udpring_plane *plane = worker->plane;
    for (uint32_t i = 1; i < plane->worker_count; i++) {
        struct worker *other = &plane->workers[(worker->number + i) % plane->worker_count];
        uint32_t sleeps = SPREAD_SLEEPS;
        if (__atomic_load_n(&other->spread->called, __ATOMIC_RELAXED) == SPREAD_SLEEPS &&
            __atomic_compare_exchange_n(&other->spread->called, &sleeps, SPREAD_CALLED + worker->number, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED)) {
            worker->spread->called_ns = ur_clock_ns(CLOCK_MONOTONIC);
            worker_wake(other);
            return;
        }
    }
}

/* Calls another helper if two jobs are ready for the owner and for each present helper. */
static void call_if_due(struct worker *worker)
{
    struct spread *spread = worker->spread;
    uint32_t helpers = __atomic_load_n(&spread->helpers, __ATOMIC_RELAXED);
    if (helpers >= SPREAD_HELPERS || ready_jobs(spread) < 2 + 2 * helpers)
        return;
    if (ur_clock_ns(CLOCK_MONOTONIC) - spread->called_ns >= SPREAD_CALL_NS)
        call_one(worker);
}

void spread_publish(struct worker *worker)
{
    struct spread *spread = worker->spread;
    __atomic_store_n(&spread->state[spread->used++], SPREAD_READY, __ATOMIC_RELEASE);
    call_if_due(worker);
}

void spread_publish_done(struct worker *worker)
{
    struct spread *spread = worker->spread;
    struct spread_job *job = &spread->job[spread->used];
    job->run(job, worker->number);
    set_done(spread, spread->used++);
}

void spread_finish(struct worker *worker, uint32_t number)
{
    struct spread *spread = worker->spread;
    uint32_t spins = 0;
    while (!spread_is_done(spread, number)) {
        bool did = run_if_ready(spread, number, worker->number);
        for (uint32_t i = spread->used; !did && i-- > number;)   /* from the last on, because helpers begin with the first */
            did = run_if_ready(spread, i, worker->number);
        if (did)
            spins = 0;
        else if (++spins < SPREAD_SPINS)
            relax();
        else
            sched_yield();   /* the helper may be waiting for this CPU */
    }
}

void spread_see(struct worker *worker)
{
    struct spread *spread = worker->spread;
    if (ur_likely(worker->now - spread->trial.last.now < SPREAD_WINDOW_NS) || spread->forced)
        return;
    struct spread_sample sample = {
        .now = worker->now,
        .cpu_ns = ur_clock_ns(CLOCK_THREAD_CPUTIME_ID),
        .bytes = worker->stats.tun_bytes_in + worker->stats.tun_bytes_out,
        .waits = spread->waits,
    };
    bool on = spread_trial_see(&spread->trial, &sample);
    worker->stats.help_trials += on && !worker->spread_on;
    worker->spread_on = on;
}

void spread_sleep(struct worker *worker)
{
    worker->spread->waits++;
    __atomic_store_n(&worker->spread->called, SPREAD_SLEEPS, __ATOMIC_RELEASE);
}

void spread_wake(struct worker *worker)
{
    struct spread *spread = worker->spread;
    uint32_t called = __atomic_exchange_n(&spread->called, 0, __ATOMIC_ACQ_REL);
    if (ur_likely(called < SPREAD_CALLED))
        return;
    spread->helps = (int32_t)(called - SPREAD_CALLED);
    __atomic_add_fetch(&worker->plane->workers[spread->helps].spread->helpers, 1, __ATOMIC_RELAXED);
}

void spread_stop_helping(struct worker *worker)
{
    struct spread *spread = worker->spread;
    if (!spread_helps(worker))
        return;
    __atomic_sub_fetch(&worker->plane->workers[spread->helps].spread->helpers, 1, __ATOMIC_RELAXED);
    spread->helps = -1;
}

/* Runs the owner's first job that is ready. False: there is none. */
static bool help_once(struct worker *worker, struct spread *owner)
{
    for (uint32_t i = 0; i < SPREAD_JOBS; i++)
        if (run_if_ready(owner, i, worker->number)) {
            worker->stats.trains_helped++;
            return true;
        }
    return false;
}

/* Worker 0 is stopping all others, or this worker has a command. */
static bool wanted_elsewhere(const struct worker *worker)
{
    return __atomic_load_n(&worker->plane->gate_shut, __ATOMIC_RELAXED) ||
           __atomic_load_n(&worker->command_waiting, __ATOMIC_RELAXED);
}

void spread_help(struct worker *worker)
{
    struct spread *owner = worker->plane->workers[worker->spread->helps].spread;
    uint64_t began = ur_clock_ns(CLOCK_MONOTONIC), last = began;
    for (uint32_t looks = 0; !wanted_elsewhere(worker);) {
        if (help_once(worker, owner)) {
            last = ur_clock_ns(CLOCK_MONOTONIC);
            looks = 0;
            if (last - began >= SPREAD_STINT_NS)
                return;
            continue;
        }
        relax();
        if (++looks % 32)
            continue;
        uint64_t now = ur_clock_ns(CLOCK_MONOTONIC);
        if (now - last >= SPREAD_IDLE_NS) {
            spread_stop_helping(worker);
            return;
        }
    }
}
