/* The receive side: one interface to the tiers uring-multishot, uring-pool and mmsg.
 *
 * Flow of one pass:
 *   udp_rx_wait()     re-arms the free slots, submits and waits in one io_uring_enter(2) (or ppoll)
 *   udp_rx_harvest()  turns the completions that are ready, up to max, into struct udpring_packet
 *   ... the caller works on packet.data in place ...
 *   udp_rx_release()  gives the slot back. It may be armed again
 *
 * Owner: the caller of open. Thread: the one that opened it, for every call. Freed by udp_rx_close(). */
#ifndef UDPRING_UDP_RX_H
#define UDPRING_UDP_RX_H
#include "../base.h"

#include "abi.h"

#define UDP_RX_SOCKETS_MAX 2

struct udp_rx;

struct udp_rx_options {
    uint32_t tier;                    /* UDPRING_TIER_*. AUTO falls back and says why. A tier given by name fails */
    uint32_t slots;                   /* buffers in flight per socket, 0 = 64, at most 2048. With `many`: of all sockets together, 0 = 256 */
    uint32_t slot_bytes;              /* payload room per slot. 0 = 65536 */
    uint32_t sockets;                 /* 1 or 2. 0 with `many` */
    int fd[UDP_RX_SOCKETS_MAX];       /* non-blocking UDP sockets prepared by udp_socket_*; the caller closes them */
    bool many;                        /* the sockets come by udp_rx_add(). They share the slots */
    bool passive;                     /* with `many` on tier mmsg: the caller polls the sockets: udp_rx_harvest_from() */
    bool pollable;                    /* the caller will use udp_rx_pollable() */
    bool direct;                      /* the io_uring tiers take what is there by recvmmsg, and arm a receive to wait */
    bool gro;                         /* UDP_GRO on the sockets while open: trains arrive, see packet.segment_size */
    bool gro_may_fail;                /* go on without UDP_GRO where the kernel refuses it */
    bool secret;                      /* the slots will hold secrets: a forked child finds zeros in their memory */
    bool timestamps;                  /* SO_TIMESTAMPNS on the sockets while open, see packet.timestamp */
    uint32_t cq_entries;              /* completion queue of the io_uring tiers. 0 = room for every buffer */
};

int udp_rx_open(struct udp_rx **rx, const struct udp_rx_options *options, struct udpring_reason *why) UR_MUST_CHECK;
/* R5. NULL is fine. False: operations did not end within the bound, so the slots are leaked. */
bool udp_rx_close(struct udp_rx *rx);
uint32_t udp_rx_tier(const struct udp_rx *rx);
/* Why no better tier was taken. Empty when the best one runs, or when the caller named a tier. */
const char *udp_rx_tier_reason(const struct udp_rx *rx);
/* Waits for packets or watched descriptors. timeout_ns: negative none, 0 poll.
 * 0: packets or watched descriptors may be ready. Else -ETIME, -EINTR, or a fatal -errno of a socket (EBADF, ENOTSOCK). */
int udp_rx_wait(struct udp_rx *rx, int64_t timeout_ns);
/* True: the kernel had no memory for the last wait, or for a receive since. The receive side retries both. The caller can
 * check this before it gives up. */
bool udp_rx_short(const struct udp_rx *rx);
/* The caller learned elsewhere (by a poll of its own) that packets may be ready. The next harvest looks for them without a
 * udp_rx_wait() before it. */
void udp_rx_notify(struct udp_rx *rx);
/* With options.direct: the next harvest tries to receive, once, without a wait before it. */
void udp_rx_look(struct udp_rx *rx);
unsigned udp_rx_harvest(struct udp_rx *rx, struct udpring_packet *packets, unsigned max);
void udp_rx_release(struct udp_rx *rx, uint32_t slot);
const struct udpring_rx_stats *udp_rx_stats(const struct udp_rx *rx);
/* Counts the kernel's drops up to now. SO_RXQ_OVFL alone would report them only with the next datagram. */
void udp_rx_see_drops(struct udp_rx *rx);
/* Adds the memory of the datagrams that wait in the sockets, and the most that the sockets take (SO_RCVBUF). */
void udp_rx_queues(const struct udp_rx *rx, uint64_t *bytes, uint64_t *limit);

/* For callers that wait in an event loop. Returns a descriptor, or -errno. The descriptor is readable while udp_rx_wait() would
 * return at once. `event` is an eventfd of the caller that outlives the receive side. The result is `event` itself, or an epoll
 * descriptor that contains it. udp_rx_close() closes the latter. Before each wait:
 *   1. Call udp_rx_prepare_poll(), which arms and submits. True: a socket has no buffer to receive into, and the next release
 *      must lead to another call.
 *   2. Clear the eventfd.
 *   3. Call udp_rx_pending(). True: something is ready already, so write to the eventfd. */
int udp_rx_pollable(struct udp_rx *rx, int event) UR_MUST_CHECK;
bool udp_rx_prepare_poll(struct udp_rx *rx);
bool udp_rx_pending(const struct udp_rx *rx);
/* The oldest ICMP error (errno) that was not fetched yet, or 0. The last 16 are kept. */
int udp_rx_icmp_error(struct udp_rx *rx);

/* With options.many. add: the index of the socket, for packet.socket_index, or -errno (-EEXIST: it is there already, -ENOSPC: too
 * many). The caller prepares the socket before, and removes it before closing it. remove: -ENOENT. Packets that were harvested
 * stay valid. Afterwards another socket may get the index. */
int64_t udp_rx_add(struct udp_rx *rx, int fd, struct udpring_reason *why) UR_MUST_CHECK;
int udp_rx_remove(struct udp_rx *rx, uint32_t index) UR_MUST_CHECK;
/* A socket that was closed (EBADF) or shut down (ESHUTDOWN) ends by itself. Takes the oldest of them, as udp_rx_remove() does:
 * its index and errno, or -ENOENT. */
int64_t udp_rx_ended(struct udp_rx *rx, int *error) UR_MUST_CHECK;
bool udp_rx_any_ended(const struct udp_rx *rx);
/* With options.passive: takes up to max datagrams of this socket. */
unsigned udp_rx_harvest_from(struct udp_rx *rx, uint32_t index, struct udpring_packet *packets, unsigned max);
/* 0, or -errno: the socket was closed (looks only with `look`), shut down, or has never been added. */
int udp_rx_member_error(struct udp_rx *rx, uint32_t index, bool look) UR_MUST_CHECK;
/* Whether a datagram that is not empty waits in the socket. The socket of `index` with options.many, else the first one. */
bool udp_rx_waits(const struct udp_rx *rx, uint32_t index);
/* Looks whether the next `sockets` sockets, in turn, are still open: the kernel reports a close to nobody. */
void udp_rx_check(struct udp_rx *rx, uint32_t sockets);

/* Makes another descriptor end udp_rx_wait(). A watch is one-shot: udp_rx_watched() reports it once, and the caller then renews
 * it. events: POLLIN / POLLOUT. The caller chooses the token (0..15), with one watch a token: -EBUSY while it is active.
 * A descriptor that cannot be polled fires at once, and the caller's own I/O then returns the error. */
int udp_rx_watch(struct udp_rx *rx, int fd, uint32_t events, uint32_t token) UR_MUST_CHECK;
/* Bit mask of the tokens that fired since the last call. */
uint32_t udp_rx_watched(struct udp_rx *rx);
#endif
