/* The worker's time slice and policy: how soon it gets a CPU that other threads keep busy.
 *
 * Since Linux 6.12 a thread may ask for a slice of its own (sched_setattr(2)). With a shorter one it runs sooner after each
 * wake-up, and for a shorter time. Its share of the CPU stays the same. Packets then wait less for the CPU.
 *
 * While many datagrams come (DATAGRAMS_MANY), and under bulk transfers alone (sparse.h), the worker has the kernel's slice and is
 * patient: with SCHED_BATCH it does not take the CPU from a thread that runs when it wakes up. So more packets gather for
 * each wake-up. A policy that the user set stays.
 *
 * On a busy CPU a patient worker waits for the slices of others, and then delivers at once what came meanwhile. The reader's
 * socket loses what it does not hold. So the worker is patient only while a default socket holds what comes within three
 * quarters of a slice.
 *
 * Owner: the worker, zero at first. Thread: the worker. Nothing to free. */
#ifndef UDPRING_TUNNEL_WORKER_TIME_SLICE_H
#define UDPRING_TUNNEL_WORKER_TIME_SLICE_H
#include "../../base.h"

#include "../limits.h"

struct time_slice {
    bool is_short, patient;
    bool is_batch;                      /* we have set it */
    bool refused;
    uint32_t socket_rate;               /* 0: not known yet */
};

/* For the calling thread: a short slice or the kernel's, and whether it is patient. System calls only where that changes, and none
 * after one was refused. */
void time_slice_set(struct time_slice *slice, bool is_short, bool patient);

/* Up to this many bytes a second, as sockets charge them, a default socket holds what comes while a patient worker waits. The first
 * call asks the kernel, so it comes before the slice is set. */
uint32_t time_slice_socket_rate(struct time_slice *slice);

/* What a socket charges for a datagram with an IP packet of this length (sk_buff's truesize). */
static inline uint32_t time_slice_charge(uint32_t packet)
{
    uint32_t memory = packet + SOCKET_HEAD;
    return (2u << (31 - __builtin_clz(memory - 1))) + SOCKET_BUFFER;
}
#endif
