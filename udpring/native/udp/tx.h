/* The send side: sendmsg operations on an io_uring, in batches and tracked until they end, or sendmmsg by the same interface.
 *
 * Flow of one pass:
 *   udp_tx_push()    takes a slot and builds its msghdr. Nothing is sent yet
 *   udp_tx_flush()   sends all pushed packets with one io_uring_enter(2) (or one sendmmsg a run)
 *   udp_tx_reap()    returns token and result of the sends that ended. Only now may the caller reuse the payload
 *
 * Order: the packets of one socket leave in the order of their pushes, even when the socket buffer is full. An EAGAIN parks
 * that packet and all behind it until the socket is writable (udp_tx_parked: watch the descriptor for POLLOUT, then flush).
 * Error table:
 *   EINVAL with a source             the source is dropped and the packet sent again
 *   EAGAIN                           parked until the socket is writable
 *   ENOBUFS                          parked and tried again a bounded number of times, then reported
 *   EMSGSIZE, EIO, EINVAL of a train reported as UDP_TX_SPLIT
 *   unreachable, EPERM               counted and reported
 *
 * Zero copy (tx_zero_copy.c): a slot ends when the kernel's notification arrives. Only then may the caller reuse the payload.
 *
 * Owner: the caller of open. Thread: the one that opened it. Freed by udp_tx_close(). */
#ifndef UDPRING_UDP_TX_H
#define UDPRING_UDP_TX_H
#include "../base.h"

#include "abi.h"
#include "rx.h"

struct udp_tx;

struct udp_tx_options {
    uint32_t tier;                    /* as for the receive side. Both uring tiers are the same here */
    uint32_t slots;                   /* pending sends. 0 = 256, at most 4096 */
    uint32_t sockets;
    int fd[UDP_RX_SOCKETS_MAX];
    bool zero_copy;                   /* send long payloads without a copy where the host can: udp_tx_zero_copy() */
};

struct iovec;
struct udp_tx_item {
    const uint8_t *data;              /* the caller's until reaped */
    const struct iovec *vector;       /* NULL: `data`. Else the pieces of the payload. The caller's until reaped */
    uint32_t vector_count;
    uint32_t length;
    uint32_t segment_size;            /* 0: one datagram. Else UDP_SEGMENT (udp_tx_segments_max() segments, 65507 bytes) */
    uint64_t token;                   /* handed back by reap */
    struct udpring_address destination;   /* family 0: connected socket */
    struct udpring_address source;        /* sticky source, port ignored. Family 0: the kernel chooses */
    uint32_t interface_index;             /* to leave by. 0: any */
    uint8_t tos;                          /* IP_TOS / IPV6_TCLASS octet. 0: the socket's, unless UDP_TX_TOS_GIVEN */
    uint8_t ttl;                          /* IP_TTL / IPV6_HOPLIMIT. 0: the socket's */
    uint8_t flags;                        /* UDP_TX_TOS_GIVEN, UDP_TX_SOURCE_STRICT */
    uint8_t socket_index;
};
#define UDP_TX_TOS_GIVEN 1            /* `tos` counts even when it is 0 */
#define UDP_TX_SOURCE_STRICT 2        /* fail with an error rather than send without this source */

struct udp_tx_done {
    uint64_t token;
    int32_t result;                   /* bytes, or -errno */
    uint32_t flags;
};
#define UDP_TX_SOURCE_DROPPED 1       /* the source is no longer an address of this host: forget it */
#define UDP_TX_SPLIT 2                /* the route refuses this train (EMSGSIZE, EIO, EINVAL): send it as single datagrams */

int udp_tx_open(struct udp_tx **tx, const struct udp_tx_options *options, struct udpring_reason *why) UR_MUST_CHECK;
/* R5. NULL is fine. False: sends did not end within the bound. The caller must then leak the payloads of the pending ones
 * (ur_graveyard_leak) and never free them. */
bool udp_tx_close(struct udp_tx *tx);
uint32_t udp_tx_tier(const struct udp_tx *tx);
/* Why no better tier was taken. Empty when the best one runs, or when the caller named a tier. */
const char *udp_tx_tier_reason(const struct udp_tx *tx);
/* The most segments of a train: 64, or 128 where the kernel takes them (6.10). Tried once a process. */
uint32_t udp_tx_segments_max(void);
/* Call after connect() on a socket: finds the address family of its packets on the wire. */
void udp_tx_learn_peer(struct udp_tx *tx, uint32_t socket_index);
/* Replaces socket 0. -EBUSY: it has pending sends. */
int udp_tx_use(struct udp_tx *tx, int fd) UR_MUST_CHECK;
/* 0, -ENOBUFS (all slots pending: flush and reap first), -EMSGSIZE, -EINVAL, -EAFNOSUPPORT. */
int udp_tx_push(struct udp_tx *tx, const struct udp_tx_item *item) UR_MUST_CHECK;
/* Sends one datagram at once on socket 0, whose queue must be empty, to an address or (NULL) to the peer. Returns 0, -errno of
 * the datagram, or 1: nothing was done, push the datagram instead. */
int udp_tx_send_now(struct udp_tx *tx, const uint8_t *data, uint64_t length, const struct udpring_address *to);
/* Counters of one thread's udp_tx_send_direct() calls, until the owner of `tx` adds them to its own.
 * Owner: the caller of udp_tx_send_direct(). Thread: one at a time. Nothing to free. */
struct udp_tx_direct {
    struct udpring_tx_stats stats;
    uint64_t charge;                  /* upper bound of the bytes charged to the socket's send buffer */
};
/* Sends one datagram or train without the queues. Any thread may call it, provided that udp_tx_idle() is true and the owner of
 * `tx` waits for that thread. Returns 0, -errno of a datagram, or UDP_TX_LEFT or UDP_TX_FULL. With these two nothing was sent,
 * and the item must be pushed. */
#define UDP_TX_LEFT 1                 /* the item or its destination is the reason. Others may still go */
#define UDP_TX_FULL 2                 /* others are unlikely to go either: the buffer is full, or the socket is closed */
int udp_tx_send_direct(const struct udp_tx *tx, const struct udp_tx_item *item, struct udp_tx_direct *direct);
/* Nothing is pending. */
bool udp_tx_idle(const struct udp_tx *tx);
/* Owner's thread, after the other threads have finished: adds the counters of `direct` and resets them. */
void udp_tx_count_direct(struct udp_tx *tx, struct udp_tx_direct *direct);
int udp_tx_flush(struct udp_tx *tx);            /* 0 or a fatal -errno */
/* True: the kernel had no memory to take all of the last flush. Flush again a little later. */
bool udp_tx_stalled(const struct udp_tx *tx);
/* Ends every queued packet that the kernel does not have, with `result` (-errno). They are then reaped. Returns how many. */
unsigned udp_tx_abandon(struct udp_tx *tx, int32_t result);
/* The same for the packets whose token makes `match` true. The others keep their order. */
unsigned udp_tx_abandon_if(struct udp_tx *tx, int32_t result, bool (*match)(void *context, uint64_t token), void *context);
unsigned udp_tx_reap(struct udp_tx *tx, struct udp_tx_done *done, unsigned max);
uint32_t udp_tx_pending(const struct udp_tx *tx);
uint32_t udp_tx_room(const struct udp_tx *tx);  /* pushes that will be taken now */
int udp_tx_parked(const struct udp_tx *tx);     /* the descriptor of the first parked socket, to watch for POLLOUT, or -1 */
bool udp_tx_socket_parked(const struct udp_tx *tx, uint32_t socket_index);
/* When every pending send waits for a zero-copy notification: the descriptor to watch for POLLIN. Watch it at once, and only
 * until the next call of a udp_tx function. Else, or where there is no such descriptor, -1. */
int udp_tx_awaits_notice(struct udp_tx *tx);
const struct udpring_tx_stats *udp_tx_stats(const struct udp_tx *tx);
/* The outcome of options.zero_copy: UDPRING_ZC_*. */
int udp_tx_zero_copy(const struct udp_tx *tx);
#endif
