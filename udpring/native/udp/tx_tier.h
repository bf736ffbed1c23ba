/* Inside of the send side: the queues (tx.c) and the policy (tx_slot.c) that all tiers share. Not for other rooms. */
#ifndef UDPRING_UDP_TX_TIER_H
#define UDPRING_UDP_TX_TIER_H
#include "../base.h"   /* first: it asks for the GNU interfaces */

#include <netinet/in.h>
#include <sys/socket.h>

#include "cmsg.h"
#include "slots.h"
#include "tier.h"
#include "tx.h"

#define UDP_TX_SLOTS_DEFAULT 256
#define UDP_TX_SLOTS_MAX 4096
#define UDP_TX_LENGTH_MAX 65527    /* an IPv6 payload less the UDP header; IPv4's 65507 is checked by the kernel */
#define UDP_TX_FLAGS (MSG_DONTWAIT | MSG_NOSIGNAL)

/* One pending send. The kernel reads all of it until the operation ended, so it lives in mapped memory (R5). */
struct udp_tx_slot {
    struct msghdr header;
    struct iovec iov;
    union { struct sockaddr_in in; struct sockaddr_in6 in6; struct sockaddr_storage any; } name;
    uint8_t control[UDP_CMSG_BUILD_BYTES];
    uint64_t token;
    uint32_t length;             /* of the payload */
    uint32_t segment_size;       /* 0: no train */
    int32_t result;
    uint16_t plain_control;      /* bytes of control without the source, which comes last */
    uint8_t socket, tries, flags;
    bool source_strict;
    bool plain;                  /* a zero-copy send was refused: not so again */
    bool zero_copy;              /* the send that is out, or was, goes without a copy */
    bool notified;                /* false: the kernel has not let go of the payload */
    bool ended;                  /* has its result, and waits for the notification */
};

/* Whether to send without a copy, and what was learned of it.
 * Owner: the struct udp_tx it is embedded in. Thread: that one's. Nothing to free. */
struct udp_tx_zero_copy {
    int outcome;                 /* UDPRING_ZC_* */
    bool wanted, works;          /* asked for; the host can */
    bool paused;                 /* all were copied, or refused: only tried now and then */
    uint32_t copied, refused;    /* in a row */
    uint32_t passed;             /* operations that could have, while paused */
};

/* What was pushed for one socket and has not ended, in order. The first `submitted` of them are with the kernel.
 * Owner: the struct udp_tx it is embedded in. Thread: that one's. Nothing to free. */
struct udp_tx_queue {
    uint32_t *slot;              /* [capacity], a ring */
    uint32_t head, count, submitted, answered;
    bool blocked;                /* the head got EAGAIN or ENOBUFS: wait until the socket is writable */
};

struct udp_tx_tier {
    size_t bytes;                /* of the tier's struct, which begins with struct udp_tx */
    int (*open)(struct udp_tx *tx, struct udpring_reason *why);
    bool (*close)(struct udp_tx *tx);      /* false: the kernel did not let go of the slots */
    int (*flush)(struct udp_tx *tx);
    void (*collect)(struct udp_tx *tx);    /* completions that came without a flush; NULL: there are none */
    int (*notice)(struct udp_tx *tx);      /* readable when a completion is there, or comes; -1. NULL: there are none */
};

extern const struct udp_tx_tier udp_tx_uring, udp_tx_mmsg;

/* Owner: the caller of udp_tx_open. Thread: that one. Freed by udp_tx_close(). The tier's own struct embeds it first. */
struct udp_tx {
    const struct udp_tx_tier *tier;
    uint32_t tier_id;
    struct udpring_tx_stats stats;
    struct udp_slots slots;
    uint32_t *free;              /* stack of free slots: the last used is the warmest */
    uint32_t free_count;
    uint32_t *done;              /* ring of slots that ended and wait for reap */
    uint32_t done_head, done_count;
    uint32_t capacity;           /* power of two >= slots.count: the size of all rings here */
    uint32_t sockets;
    int fd[UDP_RX_SOCKETS_MAX];
    uint8_t family[UDP_RX_SOCKETS_MAX];        /* of the socket */
    uint8_t wire_family[UDP_RX_SOCKETS_MAX];   /* of its packets when it is connected: AF_INET for a v4-mapped peer */
    struct udp_tx_queue queue[UDP_RX_SOCKETS_MAX];
    struct udp_tx_zero_copy zero_copy;
    bool stalled;                /* the kernel did not take all that the last flush queued */
    uint64_t direct_charge;              /* udp_tx_charge() of what went past the queue of socket 0 since the last flush */
    char reason[UDP_TIER_REASON_BYTES];
};

static inline struct udp_tx_slot *udp_tx_slot(const struct udp_tx *tx, uint32_t slot)
{
    return (struct udp_tx_slot *)(void *)udp_slot(&tx->slots, slot);
}

/* The slot of the n-th packet waiting for socket `queue`. */
static inline uint32_t udp_tx_queued(const struct udp_tx *tx, const struct udp_tx_queue *queue, uint32_t n)
{
    return queue->slot[(queue->head + n) & (tx->capacity - 1)];
}

/* Hands the slot to reap. */
static inline void udp_tx_finish(struct udp_tx *tx, uint32_t slot)
{
    tx->done[(tx->done_head + tx->done_count++) & (tx->capacity - 1)] = slot;
}

enum udp_tx_verdict {
    UDP_TX_ENDED,     /* handed to reap; take it off the queue */
    UDP_TX_RESEND,    /* changed, or never tried: send again at once, in its place */
    UDP_TX_PARK,      /* nothing of this socket can go now */
};
/* 0, or why such an item can never be sent: as udp_tx_push(). */
int udp_tx_check(const struct udp_tx *tx, const struct udp_tx_item *item) UR_MUST_CHECK;
/* Builds the message of an item that was checked. Any thread, on a slot of its own. */
void udp_tx_lay_out(const struct udp_tx *tx, struct udp_tx_slot *slot, const struct udp_tx_item *item);
void udp_tx_count_error(struct udpring_tx_stats *stats, int error, uint32_t datagrams);
/* The send has this result: bytes or -errno. */
void udp_tx_end(struct udp_tx *tx, uint32_t slot, int32_t result);
/* The error table: judges the result of one send and counts it. */
enum udp_tx_verdict udp_tx_take_result(struct udp_tx *tx, uint32_t slot, int32_t result);

/* tx_zero_copy.c. Opening: what can be had. */
void udp_tx_zero_copy_open(struct udp_tx *tx, bool wanted);
/* Whether a payload of this length should go without a copy. */
bool udp_tx_zero_copy_wants(const struct udp_tx *tx, uint64_t length);
/* Whether this slot goes without a copy now; marks it. */
bool udp_tx_zero_copy_takes(struct udp_tx *tx, struct udp_tx_slot *slot);
/* The notification came, with its result. */
void udp_tx_zero_copy_notified(struct udp_tx *tx, uint32_t slot, int32_t usage);
/* True: the error is of zero copy, and the slot is to be sent again as usual. */
bool udp_tx_zero_copy_refused(struct udp_tx *tx, struct udp_tx_slot *slot, int error);

/* How many datagrams a slot stands for. */
static inline uint32_t udp_tx_datagrams(const struct udp_tx_slot *slot)
{
    return slot->segment_size ? (slot->length + slot->segment_size - 1) / slot->segment_size : 1;
}

/* What the kernel charges the socket's buffer for such a packet, at most: sk_buffs are rounded up to powers of two, fragments
 * and segments have one each. */
static inline uint64_t udp_tx_charge(uint64_t length, uint64_t datagrams)
{
    return 3 * length + 2048 * datagrams;
}

/* True for a result that says the socket itself is gone. */
static inline bool udp_tx_fatal(int32_t result)
{
    return result == -EBADF || result == -ENOTSOCK;
}
#endif
