/* The send side: a batched sendmsg ring with pending-operation tracking, and sendmmsg behind the same face.
 *
 * Flow of one pass:
 *   udp_tx_push()    takes a slot, builds its msghdr; nothing is sent yet
 *   udp_tx_flush()   one enter (one sendmmsg a run) for all that was pushed
 *   udp_tx_reap()    what ended: token and result; only now is the payload the caller's again
 *
 * Order: packets pushed for one socket leave in the order pushed, also when the socket buffer is full: an EAGAIN parks
 * that packet and all behind it, in order, until the socket is writable (udp_tx_parked: watch the descriptor for POLLOUT
 * and flush again). Error table: EINVAL with a source -> source dropped, sent again; EAGAIN/ENOBUFS -> bounded requeue,
 * then reported; EMSGSIZE / EIO / EINVAL of a train -> reported as UDP_TX_SPLIT; unreachable, EPERM -> counted, reported.
 *
 * Zero copy (tx_zero_copy.c): a payload is the caller's again, and its slot ends, when the kernel's notification came.
 *
 * Owner: the caller of open. Thread: the one that opened it. Freed by udp_tx_close(). */
#ifndef UDPRING_UDP_TX_H
#define UDPRING_UDP_TX_H
#include "../base.h"

#include "abi.h"
#include "rx.h"

struct udp_tx;

struct udp_tx_options {
    uint32_t tier;                    /* as the receive side; both uring tiers mean the same here */
    uint32_t slots;                   /* pending sends; 0 = 256, at most 4096 */
    uint32_t sockets;
    int fd[UDP_RX_SOCKETS_MAX];
    bool zero_copy;                   /* send what is long enough without a copy, where the host can: udp_tx_zero_copy() */
};

struct iovec;
struct udp_tx_item {
    const uint8_t *data;              /* the caller's until reaped */
    const struct iovec *vector;       /* NULL: `data`; else the pieces of the payload, `length` bytes; the caller's likewise */
    uint32_t vector_count;
    uint32_t length;
    uint32_t segment_size;            /* 0: one datagram; else UDP_SEGMENT (udp_tx_segments_max() segments, 65507 bytes) */
    uint64_t token;                   /* handed back by reap */
    struct udpring_address destination;   /* family 0: connected socket */
    struct udpring_address source;        /* sticky source, port ignored; family 0: the kernel chooses */
    uint32_t interface_index;             /* to leave by; 0: any */
    uint8_t tos;                          /* IP_TOS / IPV6_TCLASS octet; 0: none given, but with UDP_TX_TOS_GIVEN */
    uint8_t ttl;                          /* IP_TTL / IPV6_HOPLIMIT; 0: none given */
    uint8_t flags;                        /* UDP_TX_TOS_GIVEN, UDP_TX_SOURCE_STRICT */
    uint8_t socket_index;
};
#define UDP_TX_TOS_GIVEN 1            /* also when it is 0 */
#define UDP_TX_SOURCE_STRICT 2        /* this source or an error; never sent again without it */

struct udp_tx_done {
    uint64_t token;
    int32_t result;                   /* bytes, or -errno */
    uint32_t flags;
};
#define UDP_TX_SOURCE_DROPPED 1       /* the sticky source was no longer ours: forget it */
#define UDP_TX_SPLIT 2                /* a train that this route refuses (EMSGSIZE, EIO, EINVAL): send it as single datagrams */

int udp_tx_open(struct udp_tx **tx, const struct udp_tx_options *options, struct udpring_reason *why) UR_MUST_CHECK;
/* R5; NULL is fine. False: the kernel did not let go within the bound; the payloads of what was pending must then be leaked
 * (ur_graveyard_leak), never freed. */
bool udp_tx_close(struct udp_tx *tx);
uint32_t udp_tx_tier(const struct udp_tx *tx);
/* Why no better tier was taken, in words; empty when the best one runs or a tier was asked for by name. */
const char *udp_tx_tier_reason(const struct udp_tx *tx);
/* Segments that a train may have: 64, or 128 where the kernel takes them (6.10; tried once a process). */
uint32_t udp_tx_segments_max(void);
/* After connect() on a socket: learns which family its packets have on the wire. */
void udp_tx_learn_peer(struct udp_tx *tx, uint32_t socket_index);
/* 0, -ENOBUFS (all slots pending: flush and reap first), -EMSGSIZE, -EINVAL, -EAFNOSUPPORT. */
int udp_tx_push(struct udp_tx *tx, const struct udp_tx_item *item) UR_MUST_CHECK;
/* One datagram to an address or (NULL) the peer, past the queue of socket 0, which must be empty. 0, -errno of the datagram, or
 * 1: it does not do so, or not now; push it. */
int udp_tx_send_now(struct udp_tx *tx, const uint8_t *data, uint64_t length, const struct udpring_address *to);
/* What one thread sent by udp_tx_send_direct() and its owner has not counted yet.
 * Owner: whoever calls that. Thread: one at a time. Nothing to free. */
struct udp_tx_direct {
    struct udpring_tx_stats stats;
    uint64_t charge;                  /* on the socket's buffer, at most */
};
/* One datagram or train past the queues, from any thread, while all of `tx` rests: its owner waits for that thread, and
 * udp_tx_idle(). 0, -errno of a datagram, or above 0, when nothing was done and it is to be pushed. */
#define UDP_TX_LEFT 1                 /* for reasons of its own, or of its destination */
#define UDP_TX_FULL 2                 /* no other is likely to go either: the buffer is full, the socket gone */
int udp_tx_send_direct(const struct udp_tx *tx, const struct udp_tx_item *item, struct udp_tx_direct *direct);
/* Nothing is pending. */
bool udp_tx_idle(const struct udp_tx *tx);
/* Owner's thread, after the others: counts it, and leaves it empty. */
void udp_tx_count_direct(struct udp_tx *tx, struct udp_tx_direct *direct);
int udp_tx_flush(struct udp_tx *tx);            /* 0 or a fatal -errno */
/* The kernel had no memory to take all of it: flush again, a little later. */
bool udp_tx_stalled(const struct udp_tx *tx);
/* Ends every packet that is queued and not with the kernel with `result` (-errno), to be reaped; returns how many. */
unsigned udp_tx_abandon(struct udp_tx *tx, int32_t result);
/* The same for those whose token `match` says yes to; the order of the others stays. */
unsigned udp_tx_abandon_if(struct udp_tx *tx, int32_t result, bool (*match)(void *context, uint64_t token), void *context);
unsigned udp_tx_reap(struct udp_tx *tx, struct udp_tx_done *done, unsigned max);
uint32_t udp_tx_pending(const struct udp_tx *tx);
uint32_t udp_tx_room(const struct udp_tx *tx);  /* pushes that will be taken now */
int udp_tx_parked(const struct udp_tx *tx);     /* the descriptor to watch for POLLOUT, of the first that is; or -1 */
bool udp_tx_socket_parked(const struct udp_tx *tx, uint32_t socket_index);
/* Where all that is pending waits for notifications of zero copy: the descriptor to watch for POLLIN, at once, until
 * the next call here. Else, or where there is no such descriptor, -1. */
int udp_tx_awaits_notice(struct udp_tx *tx);
const struct udpring_tx_stats *udp_tx_stats(const struct udp_tx *tx);
/* What became of options.zero_copy: UDPRING_ZC_*. */
int udp_tx_zero_copy(const struct udp_tx *tx);
#endif
