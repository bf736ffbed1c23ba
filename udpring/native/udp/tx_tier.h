/* Internal to the send side: the queues (tx.c) and the error policy (tx_slot.c) that all tiers share. */
#ifndef UDPRING_UDP_TX_TIER_H
#define UDPRING_UDP_TX_TIER_H
#include "../base.h"   /* include first: it defines _GNU_SOURCE */

#include <netinet/in.h>
#include <sys/socket.h>

#include "cmsg.h"
#include "slots.h"
#include "tier.h"
#include "tx.h"

#define UDP_TX_SLOTS_DEFAULT 256
#define UDP_TX_SLOTS_MAX 4096
#define UDP_TX_LENGTH_MAX 65527    /* an IPv6 payload less the UDP header. IPv4's 65507 is checked by the kernel */
#define UDP_TX_FLAGS (MSG_DONTWAIT | MSG_NOSIGNAL)

/* One pending send. The kernel may read all of it until the operation has ended, so it is in mapped memory (R5). */
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
    bool plain;                  /* zero copy was refused for this slot: do not try it again */
    bool zero_copy;              /* the current or last send uses zero copy */
    bool notified;                /* false: the kernel may still read the payload */
    bool ended;                  /* has its result and waits for the notification */
};

/* Whether to use zero copy, and the results so far.
 * Owner: the struct udp_tx it is embedded in. Thread: that one's. Nothing to free. */
struct udp_tx_zero_copy {
    int outcome;                 /* UDPRING_ZC_* */
    bool wanted, works;          /* requested, and supported by the host */
    bool paused;                 /* all sends were copied or refused: try only now and then */
    uint32_t copied, refused;    /* in a row */
    uint32_t passed;             /* operations that could have used it, while paused */
};

/* The pushed packets of one socket that have not ended, in order. The kernel has the first `submitted` of them.
 * Owner: the struct udp_tx it is embedded in. Thread: that one's. Nothing to free. */
struct udp_tx_queue {
    uint32_t *slot;              /* [capacity], a ring */
    uint32_t head, count, submitted, answered;
    bool blocked;                /* the head got EAGAIN or ENOBUFS: wait until the socket is writable */
};

struct udp_tx_tier {
    size_t bytes;                /* of the tier's struct, which begins with struct udp_tx */
    int (*open)(struct udp_tx *tx, struct udpring_reason *why);
    bool (*close)(struct udp_tx *tx);      /* false: sends did not end within the bound */
    int (*flush)(struct udp_tx *tx);
    void (*collect)(struct udp_tx *tx);    /* handles completions without a flush. NULL: the tier has none */
    int (*notice)(struct udp_tx *tx);      /* descriptor, readable when completions are ready. -1. NULL: no completions */
};

extern const struct udp_tx_tier udp_tx_uring, udp_tx_mmsg;

/* Owner: the caller of udp_tx_open. Thread: that one. Freed by udp_tx_close(). The tier's own struct embeds it first. */
struct udp_tx {
    const struct udp_tx_tier *tier;
    uint32_t tier_id;
    struct udpring_tx_stats stats;
    struct udp_slots slots;
    uint32_t *free;              /* stack of free slots: the last used one is warm in the cache */
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
    uint64_t direct_charge;              /* udp_tx_charge() of the datagrams sent at once on socket 0 since the last flush */
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

/* Queues the slot for udp_tx_reap(). */
static inline void udp_tx_finish(struct udp_tx *tx, uint32_t slot)
{
    tx->done[(tx->done_head + tx->done_count++) & (tx->capacity - 1)] = slot;
}

enum udp_tx_verdict {
    UDP_TX_ENDED,     /* queued for udp_tx_reap(). Remove it from its queue */
    UDP_TX_RESEND,    /* changed, or never tried: send it again at once, in its place */
    UDP_TX_PARK,      /* the socket can send nothing now */
};
/* 0, or the -errno (as udp_tx_push()) of an item that can never be sent. */
int udp_tx_check(const struct udp_tx *tx, const struct udp_tx_item *item) UR_MUST_CHECK;
/* Builds the message of an item that was checked. Any thread, on a slot of its own. */
void udp_tx_lay_out(const struct udp_tx *tx, struct udp_tx_slot *slot, const struct udp_tx_item *item);
void udp_tx_count_error(struct udpring_tx_stats *stats, int error, uint32_t datagrams);
/* Ends a send with this result: bytes or -errno. */
void udp_tx_end(struct udp_tx *tx, uint32_t slot, int32_t result);
/* The error table: decides on the result of one send and counts it. */
enum udp_tx_verdict udp_tx_take_result(struct udp_tx *tx, uint32_t slot, int32_t result);

/* tx_zero_copy.c. Called at open: finds out whether zero copy works. */
void udp_tx_zero_copy_open(struct udp_tx *tx, bool wanted);
/* Whether a payload of this length should use zero copy. */
bool udp_tx_zero_copy_wants(const struct udp_tx *tx, uint64_t length);
/* Whether this send of the slot uses zero copy. Marks the slot accordingly. */
bool udp_tx_zero_copy_takes(struct udp_tx *tx, struct udp_tx_slot *slot);
/* Call when the notification arrived, with its result. */
void udp_tx_zero_copy_notified(struct udp_tx *tx, uint32_t slot, int32_t usage);
/* True: zero copy caused the error, so send the slot again with a copy. */
bool udp_tx_zero_copy_refused(struct udp_tx *tx, struct udp_tx_slot *slot, int error);

/* The number of datagrams of a slot. */
static inline uint32_t udp_tx_datagrams(const struct udp_tx_slot *slot)
{
    return slot->segment_size ? (slot->length + slot->segment_size - 1) / slot->segment_size : 1;
}

/* Upper bound of the kernel's charge to the socket's buffer for such a packet. The kernel rounds sk_buffs up to powers of two,
 * and each fragment or segment has one. */
static inline uint64_t udp_tx_charge(uint64_t length, uint64_t datagrams)
{
    return 3 * length + 2048 * datagrams;
}

/* True for a result that shows that the socket itself was closed. */
static inline bool udp_tx_fatal(int32_t result)
{
    return result == -EBADF || result == -ENOTSOCK;
}

/* The error is not about this datagram, or may be temporary. So the datagram must be queued. */
static inline bool udp_tx_must_queue(int error)
{
    return error == EAGAIN || error == ENOBUFS || error == EINTR || udp_tx_fatal(-error);
}
#endif
