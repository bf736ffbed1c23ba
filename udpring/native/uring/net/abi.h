/* The interface of many stream connections on one ring to Python (udpring/uring/net.py). */
#ifndef UDPRING_URING_NET_ABI_H
#define UDPRING_URING_NET_ABI_H
#include "../../abi.h"

/* ---- connections whose accepting and receiving stay armed ----
 * Flow: udpring_net_turn() gives the buffers of the previous turn back, starts what the program asked for since, waits, and fills
 * the columns of struct udpring_net_events. The other calls only note what the program wants.
 * Owner: the caller of open. Thread: the one that opened it. Others get -EXDEV, except from udpring_net_wake(). Freed by
 * udpring_net_free(). */
struct udpring_net;

#define UDPRING_NET_CONNECTIONS_MAX 1048576u
#define UDPRING_NET_LISTENERS_MAX 64u
#define UDPRING_NET_BUFFERS_MAX 32768u
#define UDPRING_NET_BUFFER_BYTES_MAX 1048576u
#define UDPRING_NET_NOTICES_MAX 4096u

struct udpring_net_options {
    uint32_t connections;      /* at once */
    uint32_t buffers;          /* to receive into: a power of two */
    uint32_t buffer_bytes;     /* of each */
    uint32_t high, low;        /* bytes in the send queue of a connection: above high it is full, at low no longer */
    uint64_t queue_bytes;      /* more in a send queue aborts its connection */
    uint32_t half_open;        /* 0: a connection is closed when its peer ended and its queue is empty */
    uint32_t readiness;        /* 1: epoll(7) in place of io_uring */
    uint32_t flags_deny;       /* IORING_SETUP_* bits not to request */
    uint32_t known_ends;       /* 0: sends report success too, as on kernels that lose the count of a failed one */
    uint32_t bundles;          /* 1: one receive may fill several buffers, where the kernel can */
};

/* What happened to a connection, beside data. */
enum udpring_net_notice {
    UDPRING_NET_OPENED,        /* accepted. value: the number of its listener */
    UDPRING_NET_ENDED,         /* the peer will send no more */
    UDPRING_NET_DRAINED,       /* the send queue was full, and holds at most `low` bytes now */
    UDPRING_NET_CLOSED         /* the last event of this id. value: 0, or the errno that ended it */
};

/* The columns of one turn, in memory of the caller. Order: OPENED, then data, then the other notices, in the order of the rows. */
struct udpring_net_events {
    uint64_t *ids;             /* data: of which connection. These three have `buffers` rows, the others UDPRING_NET_NOTICES_MAX */
    uint64_t *starts;          /* ... where in memory */
    uint32_t *lengths;
    uint64_t *notice_ids;
    uint32_t *notices;         /* enum udpring_net_notice */
    int32_t *values;
    uint8_t *memory;           /* of all buffers: buffers x buffer_bytes */
    uint32_t rows, notice_rows;
    uint32_t woken;            /* 1: udpring_net_wake() was called, or `starving` has become 1 */
    uint32_t unfinished;       /* 1: call again before waiting for the descriptor */
    uint32_t starving;         /* 1: connections wait for a claimed buffer: wake the net when one can be released */
};

struct udpring_net_info {
    uint32_t connections, lent, claimed;   /* at present. lent: buffers of the last turn. claimed: kept by the program */
    uint64_t queued_bytes;                 /* in all send queues, at present */
    uint64_t opened, closed;
    uint64_t failed;           /* connections that an error ended */
    uint64_t overfull;         /* connections aborted because their queue would exceed queue_bytes */
    uint64_t unsent;           /* pieces for connections that were gone, or closing */
    uint64_t refused;          /* accepted when all places were taken, and closed */
    uint64_t shortages;        /* failures of accept(2), after which it pauses for 50 ms */
    uint64_t starved;          /* receives that found no free buffer. They go on when there are some again */
    uint64_t sends, short_sends;
    uint64_t waits;            /* calls of io_uring_enter(2) or epoll_wait(2) */
    uint64_t stale;            /* completions of no operation */
    int32_t setup_flags;       /* IORING_SETUP_* */
};

/* The caller keeps the columns until close, and the memory until close has returned 0. */
int32_t udpring_net_open(struct udpring_net **net, const struct udpring_net_options *options, struct udpring_net_events *events,
                         struct udpring_reason *why);
/* Closes all connections and waits for their operations. 0. > 0: this many did not end within 2 s. Then their memory went to the
 * graveyard, and the caller keeps the memory for ever. -EXDEV: the caller is not the owner, and the owner thread still runs. Nothing was
 * done. Idempotent. */
int32_t udpring_net_close(struct udpring_net *net);
/* Call after close. */
void udpring_net_free(struct udpring_net *net);
int32_t udpring_net_info(const struct udpring_net *net, struct udpring_net_info *out);
/* A descriptor that is readable when a turn would return events. -EBADF after close. */
int32_t udpring_net_fileno(struct udpring_net *net);
/* Ends the present or the next wait. Any thread, until udpring_net_free(). */
void udpring_net_wake(struct udpring_net *net);

/* Accepts on a listening socket, which stays the caller's. Returns its number, or -ENOSPC. */
int32_t udpring_net_listen(struct udpring_net *net, int32_t fd);
/* 0, -ENOENT. Afterwards the caller may close the socket. */
int32_t udpring_net_unlisten(struct udpring_net *net, uint32_t number);
/* Takes a connected stream socket over. Its id, or -ENOSPC, -errno. Then the socket stays the caller's. No OPENED follows. */
int64_t udpring_net_add(struct udpring_net *net, int32_t fd);

/* rows + notice_rows (0: the time is over), or -errno: -EINTR, a signal. timeout_ns: negative without limit, 0 does not wait. */
int32_t udpring_net_turn(struct udpring_net *net, int64_t timeout_ns);

/* Queues a copy. Returns the bytes in the connection's queue, or -ENOENT: it is gone. -EPIPE: it is closing, or was half-closed.
 * -ENOBUFS: more than queue_bytes, so it is aborted. -ENOMEM, with nothing queued. */
int64_t udpring_net_send(struct udpring_net *net, uint64_t id, const uint8_t *data, uint64_t length);
/* Piece i: lengths[i] bytes at starts[i] of data to ids[i]. data NULL: of the received memory. Returns how many pieces could not be
 * queued, for the reasons above. Or -ERANGE: a piece lies outside, and none is queued. A piece that finds no memory aborts its
 * connection, because later pieces must not overtake it. */
int64_t udpring_net_send_many(struct udpring_net *net, const uint64_t *ids, const uint64_t *starts, const uint32_t *lengths,
                              uint32_t count, const uint8_t *data, uint64_t size);

enum udpring_net_order {
    UDPRING_NET_PAUSE,         /* stop receiving. Data that was received before still comes */
    UDPRING_NET_RESUME,
    UDPRING_NET_SHUTDOWN,      /* no more sending, when the queue is empty (shutdown(2), SHUT_WR) */
    UDPRING_NET_CLOSE,         /* close when the queue is empty. No more data comes */
    UDPRING_NET_ABORT          /* drop the queue and reset the connection (SO_LINGER of 0 s) */
};
/* 0, -ENOENT. */
int32_t udpring_net_order(struct udpring_net *net, uint64_t id, uint32_t order);
int32_t udpring_net_order_all(struct udpring_net *net, uint32_t order);   /* the same to all connections */
/* The bytes in the queue of a connection, or -ENOENT. */
int64_t udpring_net_queued(const struct udpring_net *net, uint64_t id);
/* The descriptor of a connection, or -ENOENT. */
int32_t udpring_net_fd(const struct udpring_net *net, uint64_t id);

/* Keeps the buffers of a row of this turn from being given back at the next one, until udpring_net_release(). Each row once.
 * -ENOENT: no such memory, or claimed already. */
int32_t udpring_net_claim(struct udpring_net *net, uint64_t start, uint32_t length);
/* 0, -ENOENT: it is not claimed. Nothing is received until the next turn. */
int32_t udpring_net_release(struct udpring_net *net, uint64_t start, uint32_t length);
#endif
