/* The interface of the UDP layer to Python (udpring/udp) and to the tunnel. */
#ifndef UDPRING_UDP_ABI_H
#define UDPRING_UDP_ABI_H
#include "../abi.h"

/* Tiers, best first. AUTO takes the best that works on this host, found by trying. The numbers and the names (tier.c) both
 * come from this list. */
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
/* The name of a tier. "?" for an unknown number. */
const char *udpring_tier_name(uint32_t tier);
/* The tier of that name, or -EINVAL. */
int32_t udpring_tier_parse(const char *name);
/* 0 when this tier (not AUTO) has carried a datagram over loopback in this process. Else its -errno, with the reason. */
int32_t udpring_tier_probe(uint32_t tier, struct udpring_reason *why);

/* An address of a UDP endpoint. IPv4 is in ip[0..3] and the rest is zero, so that memcmp compares addresses.
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
    uint32_t segment_size;      /* 0: a single datagram. Else the GRO segment size */
    uint32_t slot;              /* return it with release() */
    uint32_t interface_index;   /* arrived on. 0 unknown */
    uint16_t flags;
    uint8_t tos;                /* IP_TOS / IPV6_TCLASS octet. ECN is its low two bits */
    struct udpring_address source;
    struct udpring_address local;   /* the address it was sent to (pktinfo), port 0. Family 0 = unknown */
    uint32_t socket_index;      /* of the socket in the options of open, or the number that udpring_recv_add gave it */
    uint64_t timestamp;         /* time of arrival in the kernel, CLOCK_REALTIME ns (SO_TIMESTAMPNS). 0 = not enabled */
};

/* Counters of a receive side. Each only grows. All count datagrams, except `trains` (UDP_GRO) and `wakeups` (calls). */
struct udpring_rx_stats {
    uint64_t packets, bytes, trains, wakeups;
    uint64_t truncated, control_truncated, zero_length;
    uint64_t starved;           /* multishot ended because no buffer was left, or the user held the whole pool */
    uint64_t icmp_errors;       /* ECONNREFUSED, EHOSTUNREACH, ... delivered to the socket. Receiving goes on */
    uint64_t transient_errors;  /* EAGAIN, EINTR, ENOMEM */
    uint64_t removed;           /* received, but their socket was removed before they were fetched */
    uint64_t stale;             /* completions or releases for a slot that was not in flight / not held: ignored */
    uint64_t kernel_drops;      /* datagrams dropped because the socket buffer was full (SO_RXQ_OVFL), as last reported */
};

/* Counters of a send side. Each only grows. All count datagrams, except `trains` (UDP_SEGMENT) and `submits` (calls). */
struct udpring_tx_stats {
    uint64_t packets, bytes, trains, submits;
    uint64_t split;             /* trains that the route refused. Their datagrams are sent one by one */
    uint64_t requeued;          /* EAGAIN / ENOBUFS: kept in order and tried again */
    uint64_t source_dropped;    /* EINVAL with a sticky source: sent again without it */
    uint64_t unreachable, refused, denied, too_big, no_buffers, other_errors;
    uint64_t zero_copy, zero_copied;    /* sends by zero copy, and how many of them the kernel copied after all */
    uint64_t zero_copy_refused;         /* refused by zero copy, sent again with a copy */
};

/* Receiving for Python: a receive side, and batches that outlive it.
 * Owner: the caller of udpring_recv_open(). Thread: the opener's. Others and a forked child get -EXDEV. Exceptions:
 * udpring_batch_release, wake, close and free (see there), and stats and usage, which any thread may read, as of the owner's
 * last call. Freed by udpring_recv_free() and the release of the last batch. */
struct udpring_recv;
#define UDPRING_RECV_SOCKETS_MAX 65536 /* sockets of one ring */
#define UDPRING_GRO_OFF 0
#define UDPRING_GRO_ON 1
#define UDPRING_GRO_TRY 2              /* on, or off where the kernel refuses it */
struct udpring_recv_options {
    int32_t fd;
    uint32_t tier, slots, slot_bytes, cq_entries;   /* as struct udp_rx_options */
    uint32_t lease_limit;               /* slots that batches may keep. Further packets are copied. 0 = half of the slots */
    uint64_t copy_limit;                /* bytes of such copies. More gives -ENOBUFS. 0 = 256 MiB */
    uint8_t gro;                        /* UDPRING_GRO_* */
    uint8_t whole_trains;               /* a train stays one datagram of its batch, with its segment_size */
    uint8_t timestamps;                 /* SO_TIMESTAMPNS while open */
    uint8_t many;                       /* the sockets come by udpring_recv_add. fd is ignored */
    uint8_t passive;                    /* with `many`, tier mmsg: the caller polls the sockets, and call.number says which to read */
    uint8_t locals, tos;                /* switch on IP_PKTINFO and IP_RECVTOS. Else leave them as they are */
};
/* `count` datagrams, each base[offset .. offset + length), from `message_count` messages. A message that is a train gives
 * several consecutive datagrams, unless whole_trains is set.
 * Owner: the caller of udpring_recv_batch. Thread: any. Freed (or used again) after udpring_batch_release. */
struct udpring_batch {
    const uint8_t *base;                /* all datagrams are inside base[0 .. bytes) */
    uint64_t bytes;
    const uint32_t *columns;            /* offsets[count], lengths[count], ends[count] */
    const struct udpring_packet *messages;
    uint32_t count, message_count;
    uint64_t kernel_drops;              /* reported since the previous batch */
    uint8_t whole_trains;
};
#define UDPRING_RECV_FEW 16            /* a batch of up to this many datagrams has its columns also in the call */
#define UDPRING_RECV_COLUMNS_BYTES 12  /* of a datagram: offset, length and end, a uint32_t each */
#define UDPRING_RECV_FEW_BYTES 36      /* of a datagram in the call: the same, and its struct udpring_address */
/* The arguments of one receive, in one struct: a call with one argument is the cheapest from Python. A call leaves the arguments unchanged.
 * Owner: the ring. Thread: the opener's. Freed with the handle. */
struct udpring_recv_call {
    struct udpring_recv *recv;
    int64_t timeout_ns;                 /* negative none, 0 poll */
    int64_t began_ns;                   /* CLOCK_MONOTONIC when the last call began to wait. 0: it did not wait, or timeout_ns was not positive */
    /* Set when a batch is returned. The caller sets it to NULL after taking the batch over. If it is still set at the next
     * call, that call returns the same batch. So no batch is lost when a signal handler raises in between. */
    struct udpring_batch *batch;
    const uint8_t *base;                /* the batch's base, bytes and count */
    uint64_t bytes;
    uint32_t count;
    uint32_t max;                       /* datagrams */
    uint32_t number;                    /* options.passive: of the socket. Then a call never waits, and `max` is approximate */
    /* If `count` is at most UDPRING_RECV_FEW: offsets[count], lengths[count], ends[count] and the source of each. Python
     * reads them with one copy, which is cheaper for few datagrams. */
    uint8_t few[576];                   /* UDPRING_RECV_FEW * UDPRING_RECV_FEW_BYTES */
};
/* Single datagrams of one socket, without batches: the last one that was received.
 * Owner: the caller, who sets the first line. Thread: the ring's. Freed by the caller. */
struct udpring_alone {
    struct udpring_recv *recv;          /* NULL once the ring is closed */
    uint32_t number;                    /* options.passive: of the socket */
    uint8_t ipv6, connected;            /* the family of the socket is AF_INET6. It has a peer */
    uint8_t other;                      /* `source` changed. The caller clears it */
    struct udpring_address source;      /* directly followed by the payload */
    uint8_t payload[2048];
};
/* Added to the result of udpring_recv_one: more datagrams or an ICMP error wait. `other` is set. */
#define UDPRING_ONE_MORE 65536
#define UDPRING_ONE_OTHER 131072
struct udpring_recv_usage {
    uint64_t leased, lease_limit;       /* slots that batches keep, and may keep */
    uint64_t copies, copy_limit;        /* bytes of copies that batches keep, and may keep */
    uint64_t copied;                    /* datagrams copied so far */
};

int32_t udpring_recv_open(struct udpring_recv **recv, const struct udpring_recv_options *options,
                          struct udpring_reason *why);
/* For a ring with options.many, from its owner's thread. add: the number of the socket, which its packets have in
 * socket_index, or -errno as udp_rx_add(). remove: -ENOENT. It drops the datagrams of the socket that no batch has, and the number may
 * be used again. ended: of a socket that was closed or shut down: removes it. Its number and errno, or -ENOENT. */
int64_t udpring_recv_add(struct udpring_recv *recv, int32_t fd, struct udpring_reason *why);
int32_t udpring_recv_remove(struct udpring_recv *recv, uint32_t number);
int64_t udpring_recv_ended(struct udpring_recv *recv, int32_t *error);
/* The call struct of a ring. It lives as long as the handle. */
struct udpring_recv_call *udpring_recv_call(struct udpring_recv *recv);
/* Receives up to max datagrams and waits for the first. 0 with call->batch, -ETIME, -EINTR (a signal: call again), -ECANCELED
 * (woken to be closed, or closed), -ENOMEM, -ENOBUFS (batches keep more than allowed), -EBADF (the socket was closed, even if
 * its number is in use again), -ENOLINK (one of several sockets has ended: udpring_recv_ended()), or the error that ended
 * receiving. */
int32_t udpring_recv_batch(struct udpring_recv_call *call);
/* Receives one datagram without a batch and without waiting. Returns its length, plus UDPRING_ONE_*. -EAGAIN: no datagram seems to be
 * ready, or it is a train, too long, or an error, or the ring is closed. Use udpring_recv_batch instead. The caller must know that
 * the socket is open and that something has arrived. */
int32_t udpring_recv_one(struct udpring_alone *alone);
/* Copies one field of each datagram's message (`bytes` bytes at `offset` of struct udpring_packet) into the array `to`. */
void udpring_batch_spread(const struct udpring_batch *batch, uint32_t offset, uint32_t bytes, uint8_t *to);
/* `base` is ignored. It is there because a garbage collector passes it to its destructor. */
void udpring_batch_release(struct udpring_batch *batch, const uint8_t *base);
/* A descriptor for event loops, or -errno. It is readable (level-triggered) while udpring_recv_batch would return at once.
 * Every call returns the same one. The caller must not close or read it. The owner must make the first call. */
int32_t udpring_recv_fileno(struct udpring_recv *recv);
/* Owner's thread: the oldest ICMP error (errno) that was not fetched yet, or 0. The last 16 are kept. */
int32_t udpring_recv_error(struct udpring_recv *recv);
/* Makes the calling thread the owner. The caller knows that no other thread uses the handle now or later. 0, or -EXDEV: an
 * io_uring tier, which cannot move, or a forked child. */
int32_t udpring_recv_move(struct udpring_recv *recv);
/* Any thread: ends the current wait, or else the next one, with -ECANCELED. */
void udpring_recv_wake(struct udpring_recv *recv);
/* From the owner, or from any thread once the owner has ended. Others get -EXDEV, and nothing is done. Idempotent. */
int32_t udpring_recv_close(struct udpring_recv *recv);
/* Closes the ring if it is open, and frees the handle. Where closing gives -EXDEV, the memory is never freed. */
void udpring_recv_free(struct udpring_recv *recv);
uint32_t udpring_recv_tier(const struct udpring_recv *recv);
const char *udpring_recv_reason(const struct udpring_recv *recv);
void udpring_recv_stats(const struct udpring_recv *recv, struct udpring_rx_stats *stats);
void udpring_recv_usage(const struct udpring_recv *recv, struct udpring_recv_usage *usage);

/* Sends one datagram to the source of the last one of udpring_recv_one. `fd`: of its socket. Result as of udpring_send_alone(). */
int32_t udpring_answer(const struct udpring_alone *alone, int32_t fd, const uint8_t *data, uint64_t length);
/* Sends one datagram on a socket without a ring. `ipv6`: its family is AF_INET6. Returns 0, its -errno, or 1: not possible now, or
 * not so. */
int32_t udpring_send_alone(int32_t fd, int32_t ipv6, const uint8_t *data, uint64_t length, const uint8_t *address);

/* Sending for Python. Owner, thread, closing, freeing: as for receiving. Any thread may read stats and pending. */
struct udpring_send;
/* 0 when the caller may send. -EXDEV: another thread or a forked child. -ECANCELED: closed. */
int32_t udpring_send_check(const struct udpring_send *send);
/* As udpring_recv_move(). -EXDEV also for a ring with helpers. */
int32_t udpring_send_move(struct udpring_send *send);
struct udpring_send_options {
    int32_t fd;
    uint32_t tier, slots;               /* as struct udp_tx_options */
    uint8_t gso;                        /* equal datagrams of one destination become UDP_SEGMENT trains */
    uint8_t zero_copy;                  /* use zero copy where it works: udpring_send_zero_copy() */
    uint32_t helpers;                   /* additional threads that send batches to many destinations */
};
#define UDPRING_SEND_HELPERS_MAX 15
/* job.flags */
#define UDPRING_SEND_ORDERED 1          /* keep the order across destinations: only neighbours form a train */
#define UDPRING_SEND_TOS 2              /* `tos` counts even when it is 0 */
#define UDPRING_SEND_PLAIN 4            /* no trains */
/* A batch to send. The caller fills it. The core writes the last two lines. Datagram i starts at data + offset i and has
 * length i. All memory must stay valid until `ended` == count, except `lengths` and `offsets`, which submit copies.
 * Owner: the caller. Thread: the ring's. Freed by the caller, once ended. */
struct udpring_send_job {
    const uint8_t *data;                /* all datagrams are inside data[0 .. bytes) */
    uint64_t bytes;
    const void *offsets;                /* NULL: consecutive, using all of data. Else [count] of offset_bytes each */
    const uint32_t *lengths;            /* [count]; NULL: `length` each, and without offsets the last may be shorter */
    const struct udpring_address *addresses;   /* [address_count]: 0 (connected socket), 1 for all datagrams, or count */
    int32_t *results;                   /* [count]: 0 = sent, or -errno. Submit sets all to 0 */
    struct udpring_address source;      /* family 0: the kernel chooses. The port is ignored */
    uint32_t count, address_count, length;
    uint32_t interface_index;           /* 0: any */
    uint8_t offset_bytes;               /* 4 or 8 */
    uint8_t tos, ttl, flags;            /* ttl 0: the socket's */
    uint32_t ended, failed;             /* datagrams with a result, and those of them whose result is an error */
    uint32_t taken;                     /* 1: submit accepted the job */
};
int32_t udpring_send_open(struct udpring_send **send, const struct udpring_send_options *options,
                          struct udpring_reason *why);
/* From now on the ring sends on this socket, which the caller opened, with the same options. -EBUSY: sends are pending. */
int32_t udpring_send_use(struct udpring_send *send, int32_t fd);
/* Queues the job behind the others and sends as much as possible without waiting. -EINVAL: lengths and offsets exceed the data
 * or do not use all of it, or the number of addresses is not 0, 1 or count. -ENOMEM. */
int32_t udpring_send_submit(struct udpring_send *send, struct udpring_send_job *job);
/* Sends one datagram at once, without a job. Returns 0 or its -errno. 1: nothing was done (sends are pending, the buffer is
 * full, the ring cannot be used, ...), so submit the datagram instead. `address`: NULL, or a struct udpring_address that may be
 * unaligned. */
int32_t udpring_send_one(struct udpring_send *send, const uint8_t *data, uint64_t length, const uint8_t *address);
/* Sends until the submitted `job` has ended. With a NULL job: until `finished` jobs have ended since the ring was opened. 0.
 * -ETIME or -EINTR: call again, or abandon the job. -ECANCELED: woken to be closed. timeout_ns: negative for no limit, 0 to
 * send without waiting. */
int32_t udpring_send_run(struct udpring_send *send, const struct udpring_send_job *job, uint64_t finished,
                         int64_t timeout_ns);
/* Gives up the unsent datagrams of this job: their result is -EAGAIN. Afterwards ended == count. Else the result is -EBUSY. */
int32_t udpring_send_abandon(struct udpring_send *send, struct udpring_send_job *job);
/* The number of jobs that ended since the ring was opened. */
uint64_t udpring_send_finished(const struct udpring_send *send);
/* Any thread: the number of datagrams sent by helper threads, as of the owner's last call. */
uint64_t udpring_send_helped(const struct udpring_send *send);
/* A descriptor for event loops, or -errno. It is readable (level-triggered) while pending sends can proceed, which
 * udpring_send_run with timeout_ns 0 then does, and when another thread wants to close. Every call returns the same one. The
 * caller must not close or read it. The owner must make the first call. */
int32_t udpring_send_fileno(struct udpring_send *send);
/* Any thread: ends the current wait, or else the next one, with -ECANCELED. */
void udpring_send_wake(struct udpring_send *send);
/* Unsent datagrams end with -ECANCELED. Returns 0 or -EXDEV. 1: sends did not end, so the payloads must never be freed.
 * Idempotent. */
int32_t udpring_send_close(struct udpring_send *send);
/* As udpring_recv_free. Jobs that have not ended are no longer accessed. */
void udpring_send_free(struct udpring_send *send);
uint32_t udpring_send_tier(const struct udpring_send *send);
const char *udpring_send_reason(const struct udpring_send *send);
void udpring_send_stats(const struct udpring_send *send, struct udpring_tx_stats *stats);
/* Any thread: the outcome of options.zero_copy (UDPRING_ZC_*), as of the owner's last call. */
int32_t udpring_send_zero_copy(const struct udpring_send *send);
/* The number of datagrams without a result, of all jobs. */
uint64_t udpring_send_pending(const struct udpring_send *send);
#endif
