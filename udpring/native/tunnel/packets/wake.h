/* Waking a sleeper through an eventfd, with a system call only if it sleeps.
 *
 * 1. The sleeper calls packet_wake_expect(), checks once more, and then polls the descriptor.
 * 2. The other side makes something available, and calls packet_wake_raise().
 * Both write the same word. If the sleeper's write comes second, its check finds the change. If it comes first, the other side
 * sees it and raises the eventfd. So no wake-up is lost.
 *
 * Owner: the ports (ports.h). Threads: any. The owner closes the descriptor. */
#ifndef UDPRING_TUNNEL_PACKETS_WAKE_H
#define UDPRING_TUNNEL_PACKETS_WAKE_H
#include "../../base.h"

#include <unistd.h>

struct packet_wake {
    int fd;                     /* an eventfd, not blocking */
    uint32_t waits;             /* atomic: raise it */
};

static inline void packet_wake_expect(struct packet_wake *wake)
{
    (void)__atomic_exchange_n(&wake->waits, 1, __ATOMIC_ACQ_REL);
}

/* The sleeper found something after all. */
static inline void packet_wake_forget(struct packet_wake *wake)
{
    (void)__atomic_exchange_n(&wake->waits, 0, __ATOMIC_ACQ_REL);
}

static inline void packet_wake_raise(struct packet_wake *wake)
{
    if (ur_likely(!__atomic_exchange_n(&wake->waits, 0, __ATOMIC_ACQ_REL)))
        return;
    uint64_t one = 1;
    ssize_t written;
    do
        written = write(wake->fd, &one, sizeof(one));
    while (written < 0 && errno == EINTR);   /* EAGAIN: it is raised already */
}

static inline void packet_wake_clear(const struct packet_wake *wake)
{
    uint64_t count;
    if (read(wake->fd, &count, sizeof(count)) < 0)
        count = 0;   /* it was not raised */
}
#endif
