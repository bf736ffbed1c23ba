/* The receive side: one face over the tiers uring-multishot, uring-pool and mmsg.
 *
 * Flow of one pass:
 *   udp_rx_wait()     re-arm what is free, submit and wait in one enter (or ppoll)
 *   udp_rx_harvest()  completions -> struct udpring_packet, all that are there, up to max
 *   ... the caller works on packet.data in place ...
 *   udp_rx_release()  the slot may be armed again
 *
 * Owner: the caller of open. Thread: the one that opened it, for every call. Freed by udp_rx_close(). */
#ifndef UDPRING_UDP_RX_H
#define UDPRING_UDP_RX_H
#include "../base.h"

#include "abi.h"

#define UDP_RX_SOCKETS_MAX 2

struct udp_rx;

struct udp_rx_options {
    uint32_t tier;                    /* UDPRING_TIER_*; AUTO falls back with the reason; a forced one fails */
    uint32_t slots;                   /* per socket: buffers in flight; 0 = 64, at most 2048 */
    uint32_t slot_bytes;              /* payload room per slot; 0 = 65536 */
    uint32_t sockets;                 /* 1 or 2 */
    int fd[UDP_RX_SOCKETS_MAX];       /* non-blocking UDP sockets prepared by udp_socket_*; not closed by us */
    bool pollable;                    /* udp_rx_pollable() is going to be called */
    bool gro;                         /* UDP_GRO on the sockets while open: trains arrive, see packet.segment_size */
    bool gro_may_fail;                /* and without it where the kernel refuses */
    bool secret;                      /* what is made of the packets is nobody else's: a forked child finds zeros in their memory */
    bool timestamps;                  /* SO_TIMESTAMPNS on the sockets while open, see packet.timestamp */
    uint32_t cq_entries;              /* completion queue of the io_uring tiers; 0 = room for every buffer */
};

int udp_rx_open(struct udp_rx **rx, const struct udp_rx_options *options, struct udpring_reason *why) UR_MUST_CHECK;
/* R5; NULL is fine. False: the kernel did not let go within the bound; the slots are leaked. */
bool udp_rx_close(struct udp_rx *rx);
uint32_t udp_rx_tier(const struct udp_rx *rx);
/* Why no better tier was taken, in words; empty when the best one runs or a tier was asked for by name. */
const char *udp_rx_tier_reason(const struct udp_rx *rx);
/* Waits for packets or watched descriptors. timeout_ns: negative none, 0 poll.
 * 0 something may be there, -ETIME, -EINTR, or a fatal -errno (EBADF, ENOTSOCK) with the socket named by the caller. */
int udp_rx_wait(struct udp_rx *rx, int64_t timeout_ns);
/* The kernel had no memory for the last wait, or for a receive since. Both try again by themselves; for who would give up. */
bool udp_rx_short(const struct udp_rx *rx);
/* Somebody else says that packets may be there: the next harvest looks without a wait before it. */
void udp_rx_notify(struct udp_rx *rx);
unsigned udp_rx_harvest(struct udp_rx *rx, struct udpring_packet *packets, unsigned max);
void udp_rx_release(struct udp_rx *rx, uint32_t slot);
const struct udpring_rx_stats *udp_rx_stats(const struct udp_rx *rx);
/* Counts what the kernel has dropped up to now, of which only the next datagram would tell. */
void udp_rx_see_drops(struct udp_rx *rx);

/* For who sleeps elsewhere, in an event loop: returns the descriptor that is readable while udp_rx_wait() would not have to
 * wait, or -errno. It is `event`, an eventfd of the caller that lives longer than the receive side, or an epoll
 * descriptor around it, closed by udp_rx_close(). Before each sleep:
 *   1. udp_rx_prepare_poll() arms and submits; true: a socket has no buffer left to receive into, and a release must be told of.
 *   2. The caller clears the eventfd.
 *   3. udp_rx_pending(): there is something nevertheless: the caller raises the eventfd. */
int udp_rx_pollable(struct udp_rx *rx, int event) UR_MUST_CHECK;
bool udp_rx_prepare_poll(struct udp_rx *rx);
bool udp_rx_pending(const struct udp_rx *rx);
/* The oldest errno not fetched yet of those that ICMP brought (the last 16 are kept), or 0. */
int udp_rx_icmp_error(struct udp_rx *rx);

/* Another descriptor that ends udp_rx_wait: one-shot, reported once by udp_rx_watched, then to be watched again.
 * events: POLLIN / POLLOUT. At most 16 watches; token is the caller's (0..15, one watch a token:
 * -EBUSY while it is out). A descriptor that cannot be polled fires at once: the caller's own I/O then names the error. */
int udp_rx_watch(struct udp_rx *rx, int fd, uint32_t events, uint32_t token) UR_MUST_CHECK;
/* Bit mask of the tokens that fired since the last call. */
uint32_t udp_rx_watched(struct udp_rx *rx);
#endif
