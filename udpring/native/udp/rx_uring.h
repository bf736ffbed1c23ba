/* The common part of both io_uring tiers of the receive side: the ring, waiting, watches. */
#ifndef UDPRING_UDP_RX_URING_H
#define UDPRING_UDP_RX_URING_H
#include "../uring/ops.h"
#include "../uring/queue.h"

#include "rx_vector.h"

/* Pauses a socket whose receives fail repeatedly because the kernel has no memory. ICMP errors do not count: any host could
 * slow us down with them. EAGAIN does not count: the kernel returns it to an operation that it woke 128 times without a
 * datagram, because other operations of the pool took them. */
struct udp_backoff {
    uint32_t run;          /* memory errors since the last datagram */
    uint64_t until;        /* CLOCK_MONOTONIC ns. 0: no pause */
};

/* Owner, thread, freed: as struct udp_rx, which it begins with. A tier's struct begins with this one. */
struct uring_rx {
    struct udp_rx rx;
    struct ur_ring ring;
    struct ur_ops ops;             /* receives: one a socket (multishot) or one a slot (pool) */
    struct ur_ops watches;         /* one a token */
    uint32_t watching;             /* bit mask of the active tokens */
    struct udp_backoff backoff[UDP_RX_SOCKETS_MAX];
    struct udp_rx_vector idle[UDP_RX_SOCKETS_MAX];   /* the slots that neither the kernel nor the caller has */
    uint32_t out[UDP_RX_SOCKETS_MAX];     /* pool: slots that the caller holds */
    bool look[UDP_RX_SOCKETS_MAX];        /* rx.direct: the socket may have datagrams */
    bool dry[UDP_RX_SOCKETS_MAX];         /* rx.direct: this starvation is already counted */
    struct __kernel_timespec pause;   /* read by the kernel at submission */
    /* The tier's part. arm queues the receives that can be armed. complete handles one completion of kind RECV and returns true
     * when it filled *packet. */
    void (*arm)(struct uring_rx *uring);
    /* The number of receives of this socket in the kernel. */
    uint32_t (*armed)(const struct uring_rx *uring, uint32_t socket);
    bool (*complete)(struct uring_rx *uring, const struct io_uring_cqe *cqe, struct udpring_packet *packet);
};

/* With rx.direct, for a socket without a receive in the kernel: takes what is there by recvmmsg (rx_direct.c). */
unsigned uring_rx_direct(struct uring_rx *uring, uint32_t socket, struct udpring_packet *packets, unsigned max);

#define UDP_RX_PAUSE_LEAST_NS 1000000u

/* Call before the ring is closed: cancels by user_data on kernels that cannot cancel all operations at once (before 5.19). */
void uring_cancel_old(struct ur_ops *ops, struct ur_ring *ring);
/* The ring and the two op tables. `receives` is the number of receive operations. */
int uring_rx_open(struct uring_rx *uring, uint32_t receives, struct udpring_reason *why) UR_MUST_CHECK;
/* Closes the ring and frees the tables. False: operations did not end within the bound. */
bool uring_rx_close(struct uring_rx *uring);
int uring_rx_wait(struct udp_rx *rx, int64_t timeout_ns);
void uring_rx_notify(struct udp_rx *rx);
unsigned uring_rx_harvest(struct udp_rx *rx, struct udpring_packet *packets, unsigned max);
int uring_rx_watch(struct udp_rx *rx, int fd, uint32_t events, uint32_t token);
int uring_rx_pollable(struct udp_rx *rx, int event);
bool uring_rx_prepare_poll(struct udp_rx *rx);
bool uring_rx_pending(const struct udp_rx *rx);

/* Classifies and counts an errno of a receive on `socket`, and starts a pause if one is due. */
void uring_rx_failed(struct uring_rx *uring, uint32_t socket, int error);
/* True while the socket is in a pause. */
bool uring_rx_paused(struct uring_rx *uring, uint32_t socket);
/* Keeps the error queue of a socket empty. A poll for errors alone completes when one arrives. The next call reads all of them
 * and polls again. True: it did so. */
bool uring_rx_watch_errors(struct uring_rx *uring, uint32_t socket);
/* The timeout, limited to the end of the first pause. */
int64_t uring_rx_until_pause_ends(const struct uring_rx *uring, int64_t timeout_ns);
#endif
