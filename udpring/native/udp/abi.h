/* What the UDP layer shows to Python (udpring/udp) and to the tunnel. */
#ifndef UDPRING_UDP_ABI_H
#define UDPRING_UDP_ABI_H
#include "../abi.h"

/* Tiers, best first. AUTO takes the best that works here, found by doing. The numbers and the names (tier.c) are both
 * made of this list. */
#define UDPRING_TIERS(each) \
    each(AUTO, "auto") \
    each(URING_MULTISHOT, "uring-multishot") \
    each(URING_POOL, "uring-pool") \
    each(MMSG, "mmsg")

enum udpring_tier {
#define UDPRING_TIER_NUMBER(symbol, name) UDPRING_TIER_##symbol,
    UDPRING_TIERS(UDPRING_TIER_NUMBER)
    UDPRING_TIER_COUNT
};
/* The name of a tier as people write it; "?" for an unknown number. */
const char *udpring_tier_name(uint32_t tier);
/* The tier of that name, or -EINVAL. */
int32_t udpring_tier_parse(const char *name);
/* 0 when this tier (not AUTO) has carried a datagram over loopback in this process, else its -errno and the reason. */
int32_t udpring_tier_probe(uint32_t tier, struct udpring_reason *why);

/* An address of a UDP endpoint. IPv4 in ip[0..3], the rest zero, so that memcmp tells equality.
 * A v4-mapped source on an IPv6 socket is reported as AF_INET. */
struct udpring_address {
    uint16_t family;      /* 0 = none, AF_INET, AF_INET6 */
    uint16_t port;        /* host order */
    uint32_t scope_id;    /* IPv6 link-local only */
    uint8_t ip[16];       /* network order */
};

/* packet.flags */
#define UDPRING_PACKET_TRUNCATED 1          /* MSG_TRUNC: the datagram was longer than the buffer */
#define UDPRING_PACKET_CONTROL_TRUNCATED 2  /* MSG_CTRUNC */

/* One received datagram, or one GRO train of equal segments (the last may be shorter). */
struct udpring_packet {
    uint8_t *data;
    uint32_t length;            /* bytes in data */
    uint32_t segment_size;      /* 0: a single datagram; else the GRO segment size */
    uint32_t slot;              /* give back with release() */
    uint32_t interface_index;   /* arrived on; 0 unknown */
    uint16_t flags;
    uint8_t tos;                /* IP_TOS / IPV6_TCLASS octet; ECN is its low two bits */
    uint8_t socket_index;       /* which of the sockets given at open */
    struct udpring_address source;
    struct udpring_address local;   /* the address it was sent to (pktinfo); port 0; family 0 = unknown */
    uint64_t timestamp;         /* when the kernel took it in, CLOCK_REALTIME ns (SO_TIMESTAMPNS); 0 = not asked for */
};

/* Counters of a receive side; each only grows. Datagrams but where trains (UDP_GRO) or calls (wakeups) are meant. */
struct udpring_rx_stats {
    uint64_t packets, bytes, trains, wakeups;
    uint64_t truncated, control_truncated, zero_length;
    uint64_t starved;           /* multishot ended for want of buffers, or pool fully held by the user */
    uint64_t icmp_errors;       /* ECONNREFUSED, EHOSTUNREACH, ... delivered to the socket: receiving goes on */
    uint64_t transient_errors;  /* EAGAIN, EINTR, ENOMEM */
    uint64_t stale;             /* completions or releases for a slot that was not in flight / not held: ignored */
    uint64_t kernel_drops;      /* datagrams that the socket buffer had no room for (SO_RXQ_OVFL), as last reported */
};

/* Counters of a send side; each only grows. Datagrams but where trains (UDP_SEGMENT) or calls (submits) are meant. */
struct udpring_tx_stats {
    uint64_t packets, bytes, trains, submits;
    uint64_t split;             /* trains that the route refused; their datagrams are sent singly */
    uint64_t requeued;          /* EAGAIN / ENOBUFS: kept in order and tried again */
    uint64_t source_dropped;    /* EINVAL with a sticky source: sent again without it */
    uint64_t unreachable, refused, denied, too_big, no_buffers, other_errors;
    uint64_t zero_copy, zero_copied;    /* sends without a copy; those that the kernel copied after all */
    uint64_t zero_copy_refused;         /* sent again as usual */
};

/* Receiving for Python: a receive side, and batches that outlive it.
 * Owner: who opened it. Thread: the opener's for all (-EXDEV elsewhere and in a forked child) but udpring_batch_release,
 * wake, close and free as said there; stats and usage are for any thread, as of the owner's last call. Freed by
 * udpring_recv_free() and the release of the last batch. */
struct udpring_recv;
#define UDPRING_GRO_OFF 0
#define UDPRING_GRO_ON 1
#define UDPRING_GRO_TRY 2              /* off where the kernel refuses */
struct udpring_recv_options {
    int32_t fd;
    uint32_t tier, slots, slot_bytes, cq_entries;   /* as struct udp_rx_options */
    uint32_t lease_limit;               /* slots that batches may keep; beyond it packets are copied; 0 = half of them */
    uint64_t copy_limit;                /* bytes of such copies; beyond it -ENOBUFS; 0 = 256 MiB */
    uint8_t gro;                        /* UDPRING_GRO_* */
    uint8_t whole_trains;               /* a train stays one datagram of its batch, with its segment_size */
    uint8_t timestamps;                 /* SO_TIMESTAMPNS while open */
    uint8_t locals, tos;                /* IP_PKTINFO and IP_RECVTOS are switched on; else they stay as they are */
};
/* Datagrams, each data[offset .. offset + length): `count` of them, from `message_count` messages; a message that is a
 * train gave several, one after the other, unless trains are left whole.
 * Owner: the caller of udpring_recv_batch. Thread: any. Freed (or used again) after udpring_batch_release. */
struct udpring_batch {
    const uint8_t *base;                /* all lie in base[0 .. bytes) */
    uint64_t bytes;
    const uint32_t *columns;            /* offsets[count], lengths[count], ends[count] */
    const struct udpring_packet *messages;
    uint32_t count, message_count;
    uint64_t kernel_drops;              /* learned of since the batch before */
    uint8_t whole_trains;
};
/* One receive: one argument, because that is the cheapest call from Python.
 * Owner: the ring. Thread: the opener's. Freed with the handle. */
struct udpring_recv_call {
    struct udpring_recv *recv;
    int64_t timeout_ns;                 /* negative none, 0 poll */
    /* Set when a batch is given out; its new owner sets it to NULL. Found set by the next call, the same batch is given
     * out again: nothing is lost when a signal's handler raises in between. */
    struct udpring_batch *batch;
    const uint8_t *base;                /* the batch's base, bytes and count */
    uint64_t bytes;
    uint32_t count;
    uint32_t max;                       /* datagrams */
    struct udpring_address source;      /* what udpring_recv_one took: who sent it, and the payload right behind */
    uint8_t one[2048];
};
#define UDPRING_ONE_MORE 65536          /* added to what udpring_recv_one returns: more has arrived, or an ICMP error */
struct udpring_recv_usage {
    uint64_t leased, lease_limit;       /* slots that batches keep, and may keep */
    uint64_t copies, copy_limit;        /* bytes of copies that batches keep, and may keep */
    uint64_t copied;                    /* datagrams that had to be copied so far */
};

int32_t udpring_recv_open(struct udpring_recv **recv, const struct udpring_recv_options *options,
                          struct udpring_reason *why);
/* The one call of a ring; it lives as long as the handle. */
struct udpring_recv_call *udpring_recv_call(struct udpring_recv *recv);
/* Up to max datagrams, waiting for the first. 0 with call->batch, -ETIME, -EINTR (a signal: call again), -ECANCELED (woken
 * to be closed, or closed), -ENOMEM, -ENOBUFS (batches keep more than they may), -EBADF (the socket was
 * closed, whatever has its number now), or what ended receiving. */
int32_t udpring_recv_batch(struct udpring_recv_call *call);
/* One single datagram, copied into the call, without a batch and without waiting: its length, or -EAGAIN where that does not
 * do (nothing seems to be there, a train, a long one, an error): ask udpring_recv_batch. For who was told that something has
 * come, and knows that the socket is open. */
int32_t udpring_recv_one(struct udpring_recv_call *call);
/* For each datagram of a batch, what its message says: `bytes` bytes at `offset` of struct udpring_packet, one after the
 * other into `to`. */
void udpring_batch_spread(const struct udpring_batch *batch, uint32_t offset, uint32_t bytes, uint8_t *to);
/* `base` is not looked at: it is what a garbage collector hands to its destructor. */
void udpring_batch_release(struct udpring_batch *batch, const uint8_t *base);
/* A descriptor for event loops: readable while udpring_recv_batch would not have to wait; level-triggered, always the same
 * one, not to be closed nor read by the caller. The first call must be the owner's. Or -errno. */
int32_t udpring_recv_fileno(struct udpring_recv *recv);
/* Owner's thread: the oldest errno not fetched yet of those that ICMP brought (the last 16 are kept), or 0. */
int32_t udpring_recv_error(struct udpring_recv *recv);
/* Any thread: ends the wait that is under way, or the next one, with -ECANCELED. */
void udpring_recv_wake(struct udpring_recv *recv);
/* From the owner, or from any thread when the owner has ended; else -EXDEV and nothing is done. Twice is fine. */
int32_t udpring_recv_close(struct udpring_recv *recv);
/* Closes it, if that was not done, and gives the handle up. Where it cannot be closed (-EXDEV) everything stays for good. */
void udpring_recv_free(struct udpring_recv *recv);
uint32_t udpring_recv_tier(const struct udpring_recv *recv);
const char *udpring_recv_reason(const struct udpring_recv *recv);
void udpring_recv_stats(const struct udpring_recv *recv, struct udpring_rx_stats *stats);
void udpring_recv_usage(const struct udpring_recv *recv, struct udpring_recv_usage *usage);

/* Sending for Python. Owner, thread, closing, freeing: as receiving; stats and pending are for any thread. */
struct udpring_send;
/* 0 when the caller may send; -EXDEV another thread or a forked child, -ECANCELED closed. */
int32_t udpring_send_check(const struct udpring_send *send);
struct udpring_send_options {
    int32_t fd;
    uint32_t tier, slots;               /* as struct udp_tx_options */
    uint8_t gso;                        /* equal datagrams of one destination become UDP_SEGMENT trains */
    uint8_t zero_copy;                  /* send without a copy where that works: udpring_send_zero_copy() */
    uint32_t helpers;                   /* threads beside the owner's that send to many destinations */
};
#define UDPRING_SEND_HELPERS_MAX 15
/* job.flags */
#define UDPRING_SEND_ORDERED 1          /* order over all destinations: only neighbours are joined to a train */
#define UDPRING_SEND_TOS 2              /* `tos` counts, also when it is 0 */
#define UDPRING_SEND_PLAIN 4            /* no trains */
/* A batch on its way: filled by the caller; the last two lines are the core's. Datagram i lies at data + offset i and is
 * length i long. All memory stays valid until `ended` == count, but `lengths` and `offsets`, which are copied by submit.
 * Owner: the caller. Thread: the ring's. Freed by the caller, once ended. */
struct udpring_send_job {
    const uint8_t *data;                /* everything lies in data[0 .. bytes) */
    uint64_t bytes;
    const void *offsets;                /* NULL: one after the other, all of data; else [count] of offset_bytes each */
    const uint32_t *lengths;            /* [count]; NULL: `length` each, without offsets the last may be shorter */
    const struct udpring_address *addresses;   /* [address_count]: 0 (connected socket), 1 for all, or count */
    int32_t *results;                   /* [count] 0 sent, or -errno; submit sets them to 0 */
    struct udpring_address source;      /* family 0: the kernel chooses; the port is ignored */
    uint32_t count, address_count, length;
    uint32_t interface_index;           /* 0: any */
    uint8_t offset_bytes;               /* 4 or 8 */
    uint8_t tos, ttl, flags;            /* ttl 0: the socket's */
    uint32_t ended, failed;             /* datagrams with a result; those of them whose result is an error */
    uint32_t taken;                     /* 1: submit has taken it in */
};
int32_t udpring_send_open(struct udpring_send **send, const struct udpring_send_options *options,
                          struct udpring_reason *why);
/* Takes the job in behind those that are there and sends what goes without waiting. -EINVAL: lengths and offsets reach
 * beyond the data, or do not use up all of it, or there are neither 0, 1 nor count addresses; -ENOMEM. */
int32_t udpring_send_submit(struct udpring_send *send, struct udpring_send_job *job);
/* One datagram, at once, without a job: 0, or its -errno; 1: that does not do now (something is pending, the buffer is full, the
 * ring cannot be used, ...) and nothing was done: submit it. `address`: NULL, or a struct udpring_address, unaligned perhaps.
 * `mine`: the caller knows that the socket is open. */
int32_t udpring_send_one(struct udpring_send *send, const uint8_t *data, uint64_t length, const uint8_t *address,
                         int32_t mine);
/* Sends until all of `job` (which was submitted) ended, or until `finished` jobs have ended since the ring was opened when
 * job is NULL: 0; -ETIME or -EINTR: call again, or abandon it; -ECANCELED: woken to
 * be closed. timeout_ns: negative none, 0: what goes without waiting. */
int32_t udpring_send_run(struct udpring_send *send, const struct udpring_send_job *job, uint64_t finished,
                         int64_t timeout_ns);
/* What of this job was not sent yet is not going to be: its result is -EAGAIN. Afterwards ended == count, or -EBUSY. */
int32_t udpring_send_abandon(struct udpring_send *send, struct udpring_send_job *job);
/* Jobs that ended since the ring was opened. */
uint64_t udpring_send_finished(const struct udpring_send *send);
/* Any thread: datagrams that helpers sent, as of the owner's last call. */
uint64_t udpring_send_helped(const struct udpring_send *send);
/* A descriptor for event loops: readable while what is pending can move on (run, with timeout_ns 0, then moves it), and when
 * another thread wants to close; level-triggered, always the same one, not to be closed nor read by the caller. The first
 * call must be the owner's. Or -errno. */
int32_t udpring_send_fileno(struct udpring_send *send);
/* The descriptor whose POLLOUT sending waits for, or -1: it waits for nothing. */
int32_t udpring_send_parked(const struct udpring_send *send);
/* Any thread: ends the wait that is under way, or the next one, with -ECANCELED. */
void udpring_send_wake(struct udpring_send *send);
/* What was not sent ends with -ECANCELED. 0; 1: the kernel did not let go, the payloads must never be freed; -EXDEV.
 * Twice is fine. */
int32_t udpring_send_close(struct udpring_send *send);
/* As udpring_recv_free; jobs that have not ended are not looked at any more. */
void udpring_send_free(struct udpring_send *send);
uint32_t udpring_send_tier(const struct udpring_send *send);
const char *udpring_send_reason(const struct udpring_send *send);
void udpring_send_stats(const struct udpring_send *send, struct udpring_tx_stats *stats);
/* What became of the wish: UDPRING_ZC_*, as of the owner's last call. Any thread. */
int32_t udpring_send_zero_copy(const struct udpring_send *send);
/* Datagrams of all jobs that have no result yet. */
uint64_t udpring_send_pending(const struct udpring_send *send);

/* For `udpring bench udp` only: sendmmsg(2) and recvmmsg(2) without UDP_SEGMENT and UDP_GRO, driven from C (baseline.c).
 * `data`: burst * size bytes, which stay valid; `addresses`: one each, IPv4. */
struct udpring_baseline;
int32_t udpring_baseline_open(struct udpring_baseline **base, const uint8_t *data, uint32_t size,
                              const struct udpring_address *addresses, uint32_t burst);
/* Sends the burst on `out` (-1: not) and receives as many from `in` (-1: not). How many datagrams arrived (with no `in`: were
 * sent), fewer than all when nothing came for wait_ms; or -errno, -EINTR included. */
int32_t udpring_baseline_run(struct udpring_baseline *base, int32_t out, int32_t in, uint32_t wait_ms);
void udpring_baseline_close(struct udpring_baseline *base);
#endif
