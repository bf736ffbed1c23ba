/* Threads that compute handshakes, so that neither a worker nor the event loop does (handshake_threads.c).
 * Owner: the plane. Thread: any. Freed by handshake_threads_close(). */
#ifndef UDPRING_TUNNEL_WORKER_HANDSHAKE_THREADS_H
#define UDPRING_TUNNEL_WORKER_HANDSHAKE_THREADS_H
#include "../../base.h"

#include <pthread.h>

#include "../limits.h"

#include "../crypto/abi.h"

struct handshake_threads {
    pthread_mutex_t lock;               /* protects everything but the atomic values */
    pthread_cond_t wake;
    pthread_t thread[HANDSHAKE_THREADS_MAX];
    uint32_t count, sleeping;
    uint32_t openers, opening;          /* threads that may open initiations at a time. Threads that do so now */
    bool quit;
    struct udpring_static_key *key;     /* opens initiations. NULL: Python does */
    uint32_t key_number;
    struct udpring_event *initiations;  /* [capacity], admitted and not yet opened */
    uint32_t capacity;                  /* a power of two. 0: no threads */
    uint32_t head, tail;                /* atomic to look at */
    struct udpring_computation *first, *last;             /* of Python, not yet computed */
    struct udpring_computation *done_first, *done_last;   /* computed, not yet taken */
    uint32_t computations;              /* in both lists, or being computed */
    uint32_t unsignalled;               /* results, from the first that the event loop was not woken for. Initiations after it count, too */
    uint32_t opens;                     /* atomic to look at: there is a key */
    uint64_t events, events_lost, unauthenticated, mailbox_full;   /* atomic counters */
};

struct udpring_plane;
struct worker;

void handshake_threads_init(struct handshake_threads *threads);
/* Ends the threads. The workers have ended. */
void handshake_threads_close(struct handshake_threads *threads);
/* An admitted initiation: opened in a thread, it becomes an event. False: initiations are not opened here. */
bool handshake_threads_take(struct worker *worker, const struct udpring_event *initiation);
/* Initiations that wait. */
uint32_t handshake_threads_depth(const struct handshake_threads *threads);
void handshake_threads_add_stats(const struct handshake_threads *threads, struct udpring_plane_stats *out);
#endif
