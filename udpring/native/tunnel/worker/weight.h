/* The workers' weight: their share of a CPU that other threads keep busy, and how soon they get it (their nice value, sched(7)).
 *
 * Kernel WireGuard works in softirqs, which come before all programs. A worker is a thread among others, and its packets wait until
 * it runs. With a nice value below 0 they wait less. A daemon asks for that (udpring_plane_weight).
 *
 * There are two means. Where autogroup is on, the kernel weighs sessions against each other, and nice values count within a session
 * only. A daemon that leads its session then passes its /proc/PID/autogroup, or the socket of a broker that may write to it. Else
 * each worker sets its own nice value.
 *
 * While many single datagrams come (moderation.h) the workers have the usual weight. A heavy one would be woken for fewer of them
 * at once. */
#ifndef UDPRING_TUNNEL_WORKER_WEIGHT_H
#define UDPRING_TUNNEL_WORKER_WEIGHT_H
#include "../../base.h"

#include <pthread.h>

/* Of all workers. Owner: the plane. Thread: any, under the lock but for what is atomic. Freed by weight_close(). */
struct weight {
    pthread_mutex_t lock;
    int32_t nice;               /* atomic: the nice value asked for, -20 to -1. 0: the workers keep what they have */
    uint32_t pending;           /* atomic: the session's is to change once the kernel lets it */
    int32_t group_fd;           /* /proc/PID/autogroup, or a socket to its broker. -1: by the nice values of the threads */
    int32_t group_usual, group_now;     /* of the session: before, and now */
    bool group_refused;
    uint32_t busy;              /* workers that get many datagrams */
    uint64_t not_before_ns;     /* the kernel takes few changes of sessions */
};

/* Of one worker. Owner: that worker, zero at first. Thread: the worker, but any may read `now`. Nothing to free. */
struct own_weight {
    bool many, refused;
    int32_t seen;               /* weight.nice */
    int32_t usual, now;         /* of the thread: before, and now, or 0 while it has the usual one */
};

void weight_open(struct weight *weight);
void weight_close(struct weight *weight);
/* nice: -20 to 0. group_fd: becomes the weight's. -1: none. The session has `nice` already, and had `group_usual`. */
void weight_ask(struct weight *weight, int32_t nice, int32_t group_fd, int32_t group_usual);
/* Before each wait, by each worker. A system call only where something changes, and none after one was refused. */
void weight_see(struct weight *weight, struct own_weight *own, bool many, uint64_t now);
/* The nice value by which the workers, or this one, are raised now. 0: by none. */
int32_t weight_now(struct weight *weight, const struct own_weight *own);
#endif
