/* The owner of the ring and its helpers send a window of datagrams to many destinations in parallel. Datagrams to different
 * destinations cannot form a train, so each takes a whole pass through the kernel. Only more CPUs make this faster.
 *
 * 1. The owner opens a round, wakes helpers, and takes part. Each thread claims the next few positions of the window and sends
 *    them without the queues (udp_tx_send_singles, udp_tx_send_direct). A late helper finds nothing to claim, and no thread waits for it.
 * 2. The datagrams of a destination are adjacent. The thread that claims the first of them sends all, which keeps their order.
 * 3. If a datagram cannot be sent at once (the buffer is full, a train is refused), it is left, with all behind it to the same
 *    destination.
 * 4. The owner closes the round, waits for the helpers in it, adds the counters, and moves the datagrams that were left to the
 *    end of the window. From there they are pushed as usual.
 * Helpers access only the data that the owner shares for the round, and no Python objects. */
#include "send_fan.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "../udp/tx.h"
#include "../udp/tx_singles.h"

#define CLAIM 16u                 /* positions per claim: about 40 us of sending, the longest wait of the owner */
#define WORTH_WAKING 64u          /* datagrams a thread: waking a thread costs as much as sending a few */

/* The results of one thread in a round. Owner: that thread. Nothing to free. */
struct share {
    struct udp_tx_direct direct;
    uint32_t ended, failed;       /* datagrams with a result, and those of them whose result is an error */
};

/* Owner: the udpring_send. Thread: as noted for each group. Freed by send_fan_close(). */
struct send_fan {
    pthread_mutex_t lock;
    pthread_cond_t begin, finished;
    /* Under the lock. */
    bool open, quit;
    uint64_t round;
    uint32_t inside;              /* helpers that take part */
    struct share helped;          /* the sum of the helpers that left the round */
    /* Written by the owner while no round is open. */
    const struct udpring_send *send;
    const struct send_job *job;
    uint32_t from;                /* the window is [from, job->planned) */
    /* Written by all that take part. */
    atomic_uint next;             /* position */
    atomic_bool full;             /* stop: further sends would fail */
    uint8_t left[SEND_WINDOW];    /* by position in the window. Only the thread that claimed a position writes it */
    uint32_t threads;             /* the owner's */
    pthread_t thread[UDPRING_SEND_HELPERS_MAX];
};

static const struct udpring_address *address_at(const struct send_job *job, uint32_t position)
{
    return &job->face->addresses[job->order[position]];
}

/* Whether it has the same destination as the previous position of the window. */
static bool follows(const struct send_fan *fan, uint32_t position)
{
    return position > fan->from &&
           send_address_equal(address_at(fan->job, position - 1), address_at(fan->job, position));
}

/* Sends the next train or datagram from `cursor`. *count: its datagrams. Returns as udp_tx_send_direct(). */
static int send_next(struct send_fan *fan, struct send_job *cursor, uint32_t *count, struct share *share)
{
    const struct udpring_send *send = fan->send;
    const struct udpring_address *to = address_at(cursor, cursor->at);
    struct send_train train;
    send_job_cut(cursor, send->trains ? udp_tx_segments_max() : 1, SEND_TRAIN_BYTES, &train);
    *count = train.count;
    struct udp_tx_item item;
    if (atomic_load_explicit(&fan->full, memory_order_relaxed))
        return UDP_TX_FULL;
    if ((train.count > 1 && send_path_refuses(&send->paths, to, train.segment)) || send_make_item(send, cursor, to, &item))
        return UDP_TX_LEFT;
    item.vector = train.vector;
    item.vector_count = train.count;
    item.length = train.length;
    item.segment_size = train.count > 1 ? train.segment : 0;
    return udp_tx_send_direct(send->tx, &item, &share->direct);
}

/* Sends datagrams from `cursor` on that join no train, by one call. Returns how many have a result. 0: use send_next(). */
static uint32_t send_singles(struct send_fan *fan, struct send_job *cursor, struct share *share)
{
    const struct udpring_send *send = fan->send;
    UR_UNINITIALIZED struct udp_tx_singles singles;
    uint32_t first = cursor->at;
    singles.count = 0;
    if (cursor->control || atomic_load_explicit(&fan->full, memory_order_relaxed))
        return 0;
    for (; cursor->at < cursor->planned; cursor->at++) {
        struct send_train train;
        send_job_cut(cursor, send->trains ? udp_tx_segments_max() : 1, SEND_TRAIN_BYTES, &train);
        if (train.count > 1 || !udp_tx_singles_add(send->tx, &singles, train.vector->iov_base, train.length,
                                                   address_at(cursor, cursor->at)))
            break;
    }
    uint32_t ended = singles.count > 1 ? udp_tx_send_singles(send->tx, &singles, &share->direct) : 0;
    for (uint32_t i = 0; i < ended; i++) {
        share->ended++;
        if (ur_unlikely(singles.result[i])) {
            share->failed++;
            cursor->face->results[cursor->order[first + i]] = singles.result[i];
        }
    }
    return ended;
}

/* Sends positions [at, end). No destination in it continues beyond it. */
static void send_claim(struct send_fan *fan, uint32_t at, uint32_t end, struct share *share)
{
    struct send_job cursor = *fan->job;
    cursor.planned = end;
    while (at < end) {
        cursor.at = at;
        uint32_t count = send_singles(fan, &cursor, share);
        if (count) {
            at += count;
            continue;
        }
        cursor.at = at;
        int code = send_next(fan, &cursor, &count, share);
        if (ur_unlikely(code > 0)) {
            if (code == UDP_TX_FULL)
                atomic_store_explicit(&fan->full, true, memory_order_relaxed);
            do
                fan->left[at++ - fan->from] = 1;
            while (at < end && follows(fan, at));
            continue;
        }
        share->ended += count;
        if (ur_unlikely(code)) {
            share->failed += count;
            for (uint32_t i = 0; i < count; i++)
                cursor.face->results[cursor.order[at + i]] = code;
        }
        at += count;
    }
}

static void take_part(struct send_fan *fan, struct share *share)
{
    uint32_t planned = fan->job->planned;
    for (;;) {
        uint32_t at = atomic_fetch_add_explicit(&fan->next, CLAIM, memory_order_relaxed);
        if (at >= planned)
            return;
        uint32_t end = planned - at < CLAIM ? planned : at + CLAIM;
        while (at < end && follows(fan, at))
            at++;   /* the thread with the first one of this destination sends these */
        if (at == end)
            continue;
        while (end < planned && follows(fan, end))
            end++;
        send_claim(fan, at, end, share);
    }
}

static void add(struct share *sum, const struct share *more)
{
    uint64_t *to = (uint64_t *)&sum->direct;
    const uint64_t *from = (const uint64_t *)&more->direct;
    for (size_t i = 0; i < sizeof(sum->direct) / sizeof(*to); i++)
        to[i] += from[i];
    sum->ended += more->ended;
    sum->failed += more->failed;
}

static void *helper_main(void *context)
{
    struct send_fan *fan = context;
    uint64_t seen = 0;
    (void)pthread_setname_np(pthread_self(), "udpring-send");
    pthread_mutex_lock(&fan->lock);
    for (;;) {
        while (!fan->quit && (!fan->open || fan->round == seen))
            pthread_cond_wait(&fan->begin, &fan->lock);
        if (fan->quit)
            break;
        seen = fan->round;
        fan->inside++;
        pthread_mutex_unlock(&fan->lock);
        struct share share = {.ended = 0};
        take_part(fan, &share);
        pthread_mutex_lock(&fan->lock);
        add(&fan->helped, &share);
        if (!--fan->inside)
            pthread_cond_signal(&fan->finished);
    }
    pthread_mutex_unlock(&fan->lock);
    return NULL;
}

static int start_thread(struct send_fan *fan, pthread_t *thread)
{
    /* Signals belong to the embedding program, so no helper may receive one. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(thread, NULL, helper_main, fan);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -error;
}

int send_fan_open(struct send_fan **opened, uint32_t helpers, struct udpring_reason *why)
{
    if (helpers > UDPRING_SEND_HELPERS_MAX)
        return ur_fail(why, -EINVAL, "%u helpers for a send ring: at most %d", helpers, UDPRING_SEND_HELPERS_MAX);
    struct send_fan *fan = calloc(1, sizeof(*fan));
    if (!fan)
        return ur_fail(why, -ENOMEM, "no memory for the helpers of a send ring");
    pthread_mutex_init(&fan->lock, NULL);
    pthread_cond_init(&fan->begin, NULL);
    pthread_cond_init(&fan->finished, NULL);
    (void)udp_tx_segments_max();   /* probe now, not during a round */
    for (; fan->threads < helpers; fan->threads++) {
        int code = start_thread(fan, &fan->thread[fan->threads]);
        if (code) {
            ur_fail(why, code, "starting helper %u of %u of a send ring: %s: ask for fewer, or raise the limit of processes",
                    fan->threads + 1, helpers, strerror(-code));
            send_fan_close(fan, true);
            return code;
        }
    }
    *opened = fan;
    return 0;
}

void send_fan_close(struct send_fan *fan, bool here)
{
    if (!fan)
        return;
    if (here) {
        pthread_mutex_lock(&fan->lock);
        fan->quit = true;
        pthread_cond_broadcast(&fan->begin);
        pthread_mutex_unlock(&fan->lock);
        for (uint32_t i = 0; i < fan->threads; i++)
            pthread_join(fan->thread[i], NULL);
        pthread_cond_destroy(&fan->begin);
        pthread_cond_destroy(&fan->finished);
        pthread_mutex_destroy(&fan->lock);
    }
    free(fan);
}

/* Admits `wanted` helpers, takes part, and returns when all have left. *helped: the sum of their results. */
static void run_round(struct send_fan *fan, uint32_t wanted, struct share *own, struct share *helped)
{
    pthread_mutex_lock(&fan->lock);
    fan->round++;
    fan->open = true;
    fan->helped = (struct share){.ended = 0};
    pthread_mutex_unlock(&fan->lock);
    for (uint32_t i = 0; i < wanted && i < fan->threads; i++)
        pthread_cond_signal(&fan->begin);
    take_part(fan, own);
    pthread_mutex_lock(&fan->lock);
    fan->open = false;
    while (fan->inside)
        pthread_cond_wait(&fan->finished, &fan->lock);
    *helped = fan->helped;
    pthread_mutex_unlock(&fan->lock);
}

/* Moves the datagrams that were left to the end of the window, in order. */
static void keep_left(const struct send_fan *fan, struct send_job *job)
{
    uint32_t to = job->planned;
    for (uint32_t position = job->planned; position-- > fan->from;)
        if (fan->left[position - fan->from]) {
            to--;
            job->order[to] = job->order[position];
            job->vector[to] = job->vector[position];
        }
    job->at = to;
}

bool send_fan_out(struct udpring_send *send, struct send_job *job)
{
    struct send_fan *fan = send->fan;
    uint32_t count = job->planned - job->at;
    if (!job->order || count < 2 * WORTH_WAKING || !udp_tx_idle(send->tx) || send->again_first != SEND_NO_PIECE)
        return false;
    if (send_address_equal(address_at(job, job->at), address_at(job, job->planned - 1)))
        return false;   /* one destination: one thread must send it all */
    fan->send = send;
    fan->job = job;
    fan->from = job->at;
    memset(fan->left, 0, count);
    atomic_store_explicit(&fan->next, job->at, memory_order_relaxed);
    atomic_store_explicit(&fan->full, false, memory_order_relaxed);
    struct share own = {.ended = 0}, helped;
    run_round(fan, count / WORTH_WAKING - 1, &own, &helped);
    __atomic_store_n(&send->helped, send->helped + helped.ended, __ATOMIC_RELAXED);
    add(&own, &helped);
    udp_tx_count_direct(send->tx, &own.direct);
    job->face->ended += own.ended;
    job->face->failed += own.failed;
    send->unfinished -= own.ended;
    if (own.ended == count)
        job->at = job->planned;
    else
        keep_left(fan, job);
    return own.ended > 0;
}
