/* The workers' weight: their nice value, which sets their share of a busy CPU and how soon they get it (sched(7)).
 *
 * Kernel WireGuard works in softirqs, which run before all programs. A worker is a thread, and its packets wait until it runs.
 * With a nice value below 0 they wait less. Daemons set one (udpring_plane_weight).
 *
 * Where autogroup is on, the kernel weighs sessions against each other, and nice values count only within a session. A daemon that
 * leads its session then passes its /proc/PID/autogroup, or the socket of a broker that may write to that file. Without them each
 * worker sets its own nice value.
 *
 * While many datagrams come, the workers have their usual weight. With a higher one they would wake for fewer of them at once.
 * They have it also while bulk transfers run and no flow is sparse (sparse.h): nobody waits for a short round trip then. */
#ifndef UDPRING_TUNNEL_WORKER_WEIGHT_H
#define UDPRING_TUNNEL_WORKER_WEIGHT_H
#include "../../base.h"

#include <pthread.h>

/* Of all workers. Owner: the plane. Thread: any, under the lock except for the atomic members. Freed by weight_close(). */
struct weight {
    pthread_mutex_t lock;
    int32_t nice;               /* atomic: the requested nice value, -20 to -1. 0: the workers keep theirs */
    uint32_t pending;           /* atomic: the session's value changes when the kernel permits it */
    int32_t group_fd;           /* /proc/PID/autogroup, or a socket to the broker. -1: each worker sets its own nice value */
    int32_t group_usual, group_now;     /* the session's value before, and now */
    bool group_refused;
    uint32_t as_usual;          /* workers that want the usual weight */
    uint64_t sparse_until_ns;   /* atomic: until then a sparse flow lives */
    uint64_t not_before_ns;     /* the earliest next change: the kernel permits few (GROUP_WEIGHT_NS) */
};

/* Of one worker. Owner: that worker, zero at first. Thread: the worker, but any may read `now`. Nothing to free. */
struct own_weight {
    bool as_usual, refused;
    int32_t seen;               /* weight.nice as of the last look */
    int32_t usual, now;         /* the thread's value before, and now. now 0: it has the usual one */
};

void weight_open(struct weight *weight);
void weight_close(struct weight *weight);
/* nice: -20 to 0. group_fd: taken over. -1: none. The caller has given the session `nice` already, and it had `group_usual`. */
void weight_ask(struct weight *weight, int32_t nice, int32_t group_fd, int32_t group_usual);
/* Each worker calls this before each wait. It makes a system call only for a change, and none after a refusal. */
void weight_see(struct weight *weight, struct own_weight *own, bool as_usual, uint64_t now);
/* A sparse flow lives until then. Any worker may call this, at each of its packets. */
void weight_want(struct weight *weight, uint64_t until_ns);
/* How long a worker may sleep before it calls weight_see() again: negative for ever. While it has its usual weight, and while a
 * change is pending, no packet need wake it. */
int64_t weight_patience(const struct weight *weight, const struct own_weight *own);
/* The nice value that the session or this worker has been given. 0: the usual one is in force. */
int32_t weight_now(struct weight *weight, const struct own_weight *own);
#endif
