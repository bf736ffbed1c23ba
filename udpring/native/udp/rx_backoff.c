/* Pauses of a socket whose receives fail again and again, on a ring. */
#include "rx_uring.h"

#define ERRORS_FREE 8            /* transient errors in a row before the first pause */
#define PAUSE_DOUBLINGS 6        /* 64 ms at most */

void uring_rx_failed(struct uring_rx *uring, uint32_t socket, int error)
{
    struct udp_backoff *backoff = &uring->backoff[socket];
    enum udp_rx_error class = udp_rx_fail(&uring->rx, error);
    if (class == UDP_RX_ICMP)
        udp_rx_drain_reported(&uring->rx, uring->rx.fd[socket]);
    bool refused = error == EACCES || error == EOPNOTSUPP;   /* by ICMP, or by this host at every receive */
    if ((class != UDP_RX_TRANSIENT && !refused) || error == EAGAIN || error == EINTR || ++backoff->run <= ERRORS_FREE)
        return;
    uint32_t doublings = backoff->run - ERRORS_FREE - 1;
    backoff->until = ur_clock_ns(CLOCK_MONOTONIC) +
                     ((uint64_t)UDP_RX_PAUSE_LEAST_NS << (doublings < PAUSE_DOUBLINGS ? doublings : PAUSE_DOUBLINGS));
}

bool uring_rx_paused(struct uring_rx *uring, uint32_t socket)
{
    struct udp_backoff *backoff = &uring->backoff[socket];
    if (ur_likely(!backoff->until))
        return false;
    if (ur_clock_ns(CLOCK_MONOTONIC) < backoff->until)
        return true;
    backoff->until = 0;
    return false;
}

int64_t uring_rx_until_pause_ends(const struct uring_rx *uring, int64_t timeout_ns)
{
    for (uint32_t i = 0; i < uring->rx.sockets; i++) {
        if (ur_likely(!uring->backoff[i].until))
            continue;
        int64_t left = (int64_t)(uring->backoff[i].until - ur_clock_ns(CLOCK_MONOTONIC));
        left = left > 0 ? left : 1;
        if (timeout_ns < 0 || left < timeout_ns)
            timeout_ns = left;
    }
    return timeout_ns;
}
