/* 1. A worker hands over an initiation that it admitted (admission.c). Python hands over computations of its own handshakes.
 * 2. A thread takes the oldest computation, or else the oldest initiation. At most `openers` threads open initiations at a
 *    time, so a flood of forged ones leaves the other threads to Python's computations.
 * 3. An initiation that opens becomes an event, with the handshake. Any other is dropped here and counted, so a flood of them
 *    costs the event loop nothing.
 * 4. Numbers of finished computations wait in a list, and the mailbox's eventfd says so.
 * The static key is counted: a thread may still use one that Python has just replaced. The event names its number. */
#include "handshake_threads.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/prctl.h>

#include "../crypto/noise.h"

#include "state.h"

enum { NOISE_OFFSET = 8 };   /* of an initiation: type, sender */

/* While more waits, the event loop is woken once for so many. They take a millisecond. */
enum { SIGNALLED_TOGETHER = 8 };

void handshake_threads_init(struct handshake_threads *threads)
{
    pthread_mutex_init(&threads->lock, NULL);
    pthread_cond_init(&threads->wake, NULL);
}

uint32_t handshake_threads_depth(const struct handshake_threads *threads)
{
    return __atomic_load_n(&threads->tail, __ATOMIC_RELAXED) - __atomic_load_n(&threads->head, __ATOMIC_RELAXED);
}

/* With the lock. */
static bool may_open(const struct handshake_threads *threads)
{
    return threads->head != threads->tail && threads->opening < threads->openers;
}

/* With the lock. */
static void wake_another(struct handshake_threads *threads)
{
    if (threads->sleeping && (threads->first || may_open(threads)))
        pthread_cond_signal(&threads->wake);
}

static void count(uint64_t *counter)
{
    __atomic_add_fetch(counter, 1, __ATOMIC_RELAXED);
}

/* ---- computations ---- */

void udpring_compute(struct udpring_computation *computation)
{
    struct udpring_computation *job = computation;
    switch (job->kind) {
    case UDPRING_COMPUTE_INITIATE:
        job->result = noise_initiate(job->handshake, job->key, job->remote, job->static_static, job->ephemeral, job->timestamp);
        break;
    case UDPRING_COMPUTE_FINISH:
        job->result = noise_finish(job->handshake, job->key, job->message, job->psk, job->keys);
        break;
    case UDPRING_COMPUTE_RESPOND:
        job->result = noise_respond(job->handshake, job->ephemeral, job->psk);
        break;
    default:
        job->result = -EINVAL;
    }
    explicit_bzero(job->static_static, sizeof(job->static_static));
    explicit_bzero(job->ephemeral, sizeof(job->ephemeral));
    explicit_bzero(job->psk, sizeof(job->psk));
}

static void append(struct udpring_computation **first, struct udpring_computation **last, struct udpring_computation *job)
{
    job->next = NULL;
    if (*last)
        (*last)->next = job;
    else
        *first = job;
    *last = job;
}

static struct udpring_computation *take(struct udpring_computation **first, struct udpring_computation **last)
{
    struct udpring_computation *job = *first;
    if (job && !(*first = job->next))
        *last = NULL;
    return job;
}

int32_t udpring_plane_compute(struct udpring_plane *plane, struct udpring_computation *computation)
{
    struct handshake_threads *threads = &plane->handshakes;
    int32_t result = -EAGAIN;
    pthread_mutex_lock(&threads->lock);
    if (threads->count && threads->computations < COMPUTATIONS_MAX) {
        threads->computations++;
        append(&threads->first, &threads->last, computation);
        wake_another(threads);
        result = 0;
    }
    pthread_mutex_unlock(&threads->lock);
    return result;
}

uint32_t udpring_plane_computed(struct udpring_plane *plane, uint64_t *numbers, uint32_t max)
{
    struct handshake_threads *threads = &plane->handshakes;
    uint32_t taken = 0;
    pthread_mutex_lock(&threads->lock);
    for (struct udpring_computation *job; taken < max && (job = take(&threads->done_first, &threads->done_last)); threads->computations--)
        numbers[taken++] = job->number;
    pthread_mutex_unlock(&threads->lock);
    return taken;
}

/* With the lock, which it gives away meanwhile. */
static void run_computation(struct udpring_plane *plane, struct udpring_computation *job)
{
    struct handshake_threads *threads = &plane->handshakes;
    wake_another(threads);
    pthread_mutex_unlock(&threads->lock);
    udpring_compute(job);
    pthread_mutex_lock(&threads->lock);
    append(&threads->done_first, &threads->done_last, job);
    threads->unsignalled++;
}

/* ---- initiations ---- */

bool handshake_threads_take(struct worker *worker, const struct udpring_event *initiation)
{
    struct handshake_threads *threads = &worker->plane->handshakes;
    if (!__atomic_load_n(&threads->opens, __ATOMIC_RELAXED))
        return false;
    pthread_mutex_lock(&threads->lock);
    bool room = threads->tail - threads->head < threads->capacity;
    if (room) {
        threads->initiations[threads->tail & (threads->capacity - 1)] = *initiation;
        __atomic_store_n(&threads->tail, threads->tail + 1, __ATOMIC_RELAXED);
        wake_another(threads);
    }
    pthread_mutex_unlock(&threads->lock);
    if (!room)
        plane_drop(worker, UDPRING_DROP_MAILBOX_FULL);
    return true;
}

/* Whether there was room. The caller wakes the event loop. */
static bool post(struct udpring_plane *plane, const struct udpring_event *event)
{
    struct handshake_threads *threads = &plane->handshakes;
    pthread_mutex_lock(&plane->mailbox_lock);
    struct udpring_event *place = mailbox_next(&plane->mailbox);
    if (place) {
        *place = *event;
        mailbox_put(&plane->mailbox);
    }
    pthread_mutex_unlock(&plane->mailbox_lock);
    if (place) {
        count(&threads->events);
        return true;
    }
    udpring_handshake_free(event->handshake);
    count(&threads->events_lost);
    count(&threads->mailbox_full);
    return false;
}

/* Whether it became an event. */
static bool open_initiation(struct udpring_plane *plane, struct udpring_event *event, const struct udpring_static_key *key)
{
    bool marked = wg_le32(event->message) & WG_MARK_AES_256_GCM;
    struct udpring_handshake *handshake = udpring_handshake_new(marked ? UDPRING_CIPHER_AES_256_GCM : UDPRING_CIPHER_CHACHA20_POLY1305);
    int result = handshake ? udpring_handshake_open(handshake, key, event->message + NOISE_OFFSET) : -ENOMEM;
    if (result == 0) {
        event->handshake = handshake;
        return post(plane, event);
    }
    udpring_handshake_free(handshake);
    if (result != -EBADMSG && result != -EINVAL)
        return post(plane, event);   /* Python opens it, and reports what the library lacks */
    count(&plane->handshakes.unauthenticated);
    return false;
}

/* ---- the threads ---- */

/* With the lock, which it gives away meanwhile. */
static void run_initiation(struct udpring_plane *plane)
{
    struct handshake_threads *threads = &plane->handshakes;
    struct udpring_event event = threads->initiations[threads->head & (threads->capacity - 1)];
    __atomic_store_n(&threads->head, threads->head + 1, __ATOMIC_RELAXED);
    struct udpring_static_key *key = threads->key;
    event.key_number = threads->key_number;
    if (key)
        static_key_hold(key);
    threads->opening++;
    wake_another(threads);
    pthread_mutex_unlock(&threads->lock);
    bool posted = key ? open_initiation(plane, &event, key) : post(plane, &event);
    udpring_static_key_free(key);
    pthread_mutex_lock(&threads->lock);
    threads->opening--;
    threads->unsignalled += posted || threads->unsignalled;   /* a flood of forged ones holds up no result */
}

/* With the lock, which it gives away meanwhile. */
static void wake_event_loop(struct udpring_plane *plane)
{
    struct handshake_threads *threads = &plane->handshakes;
    bool more = threads->first || threads->head != threads->tail;
    if (!threads->unsignalled || (more && threads->unsignalled < SIGNALLED_TOGETHER))
        return;
    threads->unsignalled = 0;
    pthread_mutex_unlock(&threads->lock);
    mailbox_signal(&plane->mailbox);
    pthread_mutex_lock(&threads->lock);
}

static void *thread_main(void *argument)
{
    struct udpring_plane *plane = argument;
    struct handshake_threads *threads = &plane->handshakes;
    prctl(PR_SET_NAME, "udpring-noise");
    pthread_mutex_lock(&threads->lock);
    while (!threads->quit) {
        struct udpring_computation *job = take(&threads->first, &threads->last);
        if (job) {
            run_computation(plane, job);
        } else if (may_open(threads)) {
            run_initiation(plane);
        } else {
            threads->sleeping++;
            pthread_cond_wait(&threads->wake, &threads->lock);
            threads->sleeping--;
        }
        wake_event_loop(plane);
    }
    pthread_mutex_unlock(&threads->lock);
    return NULL;
}

int32_t udpring_plane_handshake_threads(struct udpring_plane *plane, uint32_t wanted, uint32_t openers, struct udpring_reason *why)
{
    struct handshake_threads *threads = &plane->handshakes;
    if (threads->count || !wanted || wanted > HANDSHAKE_THREADS_MAX || !openers)
        return -EINVAL;
    int result = noise_load(why);
    if (result < 0)
        return result;
    threads->initiations = calloc(plane->mailbox.capacity, sizeof(*threads->initiations));
    if (!threads->initiations)
        return ur_fail(why, -ENOMEM, "no memory for handshakes");
    threads->capacity = plane->mailbox.capacity;
    threads->openers = openers;
    /* Signals are the embedding program's: none may land on a thread. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (uint32_t started = 0; started < wanted && result == 0; started++) {
        result = -pthread_create(&threads->thread[started], NULL, thread_main, plane);
        if (result == 0)
            threads->count++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return threads->count ? 0 : ur_fail(why, result, "no handshake thread (pthread_create): %s", strerror(-result));
}

void handshake_threads_close(struct handshake_threads *threads)
{
    pthread_mutex_lock(&threads->lock);
    threads->quit = true;
    pthread_cond_broadcast(&threads->wake);
    pthread_mutex_unlock(&threads->lock);
    for (uint32_t i = 0; i < threads->count; i++)
        pthread_join(threads->thread[i], NULL);
    udpring_static_key_free(threads->key);
    free(threads->initiations);
    pthread_mutex_destroy(&threads->lock);
    pthread_cond_destroy(&threads->wake);
}

int32_t udpring_plane_handshake_key(struct udpring_plane *plane, struct udpring_static_key *key, uint32_t number)
{
    struct handshake_threads *threads = &plane->handshakes;
    if (!threads->count)
        return -ENOTSUP;
    if (key)
        static_key_hold(key);
    pthread_mutex_lock(&threads->lock);
    struct udpring_static_key *before = threads->key;
    threads->key = key;
    threads->key_number = number;
    __atomic_store_n(&threads->opens, key != NULL, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&threads->lock);
    udpring_static_key_free(before);
    return 0;
}

void handshake_threads_add_stats(const struct handshake_threads *threads, struct udpring_plane_stats *out)
{
    out->events += __atomic_load_n(&threads->events, __ATOMIC_RELAXED);
    out->events_lost += __atomic_load_n(&threads->events_lost, __ATOMIC_RELAXED);
    out->drops[UDPRING_DROP_UNAUTHENTICATED] += __atomic_load_n(&threads->unauthenticated, __ATOMIC_RELAXED);
    out->drops[UDPRING_DROP_MAILBOX_FULL] += __atomic_load_n(&threads->mailbox_full, __ATOMIC_RELAXED);
}
