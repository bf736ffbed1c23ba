/* Receiving directly, within the io_uring tiers. The ring is there for waiting: a receive is armed before a wait. While datagrams
 * are there already, recvmmsg takes them with one call, and the sender wakes nobody. So a call that brings few datagrams costs what
 * they cost.
 *
 * The order holds because a socket is read either by the ring or directly: as long as a receive of the ring is in flight, or its
 * completion is not reaped, nothing is read directly. */
#include "rx_uring.h"

unsigned uring_rx_direct(struct uring_rx *uring, uint32_t socket, struct udpring_packet *packets, unsigned max)
{
    struct udp_rx *rx = &uring->rx;
    if (!uring->look[socket] || uring->armed(uring, socket) || uring_rx_paused(uring, socket))
        return 0;
    uint32_t room = udp_rx_vector_fill(rx, &uring->idle[socket], UDP_RX_VECTOR);
    room = room < max ? room : max;
    if (ur_unlikely(!room)) {
        rx->stats.starved += !uring->dry[socket];
        uring->dry[socket] = true;
        return 0;
    }
    uring->dry[socket] = false;
    int got = -EAGAIN;
    for (int errors = 0; errors < UDP_RX_ERRORS_A_PASS; errors++) {
        got = udp_rx_vector_receive(rx, &uring->idle[socket], rx->fd[socket], socket, &rx->drops[socket], packets, room);
        if (got >= 0 || got == -EAGAIN)
            break;
        uring_rx_failed(uring, socket, -got);
        if (rx->fatal || uring->backoff[socket].until)
            break;
    }
    uring->look[socket] = got > 0 && (uint32_t)got == room;
    if (got <= 0)
        return 0;
    uring->backoff[socket].run = 0;
    uring->out[socket] += (uint32_t)got;   /* the pool counts them */
    return (unsigned)got;
}
