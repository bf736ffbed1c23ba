/* The state of the connections. The program's wishes and what is under way are apart: a call of the program notes a wish and marks
 * the connection, and the next turn brings both together (net_ring_advance(), net_poll_advance()).
 * Files: net.c is the interface, ring.c and accepting.c work on io_uring, poll.c on epoll(7), queue.c has the send queues, buffers.c
 * the receive buffers, connections.c the places of connections and the notices. */
#ifndef UDPRING_URING_NET_STATE_H
#define UDPRING_URING_NET_STATE_H
#include "../../base.h"

#include "../bufring.h"
#include "../queue.h"

#include "abi.h"

#define NET_PAUSE_NS 50000000ll      /* of accepting, after a shortage */
#define NET_ROUNDS 4                 /* of a turn that does not wait, while something follows what was done */
#define NET_ONE_BY_ONE 1024u         /* with fewer free places, connections are accepted one at a time */

/* A piece of a send queue. Owner: the queue of a connection, or the net's list of free ones. Thread: the net's owner. Freed by
 * net_queue_close() and net_queue_drop(), or leaked with an operation that did not end. */
struct net_chunk {
    struct net_chunk *next;
    uint32_t room, filled, sent;
    uint8_t data[];
};

enum net_sending {
    NET_IDLE,
    NET_SILENT,                      /* ends when it is submitted, with a completion only if it fails */
    NET_ARMED                        /* in flight until its completion */
};

/* A place for a connection. fd -1: it is free, or was closed in this turn. */
struct net_connection {
    int fd;
    uint32_t generation;
    int error;                       /* why it ends. 0: as asked */
    uint32_t flight;                 /* bytes of the send under way, in the head of the queue */
    struct net_chunk *head, *tail;
    uint64_t queued;                 /* bytes */
    uint32_t next_free;
    uint32_t interest;               /* epoll: events asked for. 0: not registered */
    uint32_t ended_turn;             /* the low bits of `turns` when `ending` was set */
    uint8_t sending;                 /* enum net_sending */
    /* under way */
    bool receiving, receive_cancelled, send_cancelled;
    bool blocked;                    /* the socket's buffer was full */
    bool starved;                    /* waits for a free buffer */
    bool marked;                     /* in the list of those to advance */
    bool ended, shut;
    bool ending;                     /* closes with the next turn: the program may still answer the last data */
    bool full;                       /* more than `high` queued, and not down at `low` since */
    /* wanted */
    bool paused, shutdown, closing, dead, reset;
};

struct net_listener {
    int fd;                          /* the program's */
    uint32_t generation;
    int64_t not_before;              /* CLOCK_MONOTONIC, after a shortage */
    bool used, removed;              /* removed: until its operation has ended */
    bool armed, many, cancelled;     /* many: multishot */
};

struct net_buffer_list {
    uint8_t *memory;                 /* count x bytes, of the caller of udpring_net_open() */
    uint32_t count, bytes;
    uint32_t out;                    /* lent or claimed */
    struct ur_bufring ring;          /* io_uring: those the kernel may take */
    uint16_t *position;              /* io_uring: [count] the tail at which each was added last */
    uint16_t *stack;                 /* epoll: [count] the free ones are below count - out */
    uint8_t *claimed, *is_lent;      /* [count] 0 or 1 */
    uint16_t *lent;                  /* [count] in the order of their use */
    uint32_t lent_count, claimed_count;
    bool waiting;                    /* some connection is starved */
};

/* Owner: the caller of udpring_net_open(). Thread: the owner's, except `wake_fd`. Freed by udpring_net_free(). */
struct udpring_net {
    struct udpring_net_options options;
    struct udpring_net_events *events;   /* of the caller of udpring_net_open() */
    uint32_t turns;
    struct udpring_net_info info;
    struct ur_ring ring;             /* not open with readiness */
    int poll_fd;                     /* epoll. -1 with io_uring */
    int wake_fd;                     /* eventfd(2): udpring_net_wake() */
    int event_fd;                    /* io_uring: for udpring_net_fileno(). -1: none */
    int timer_fd;                    /* epoll: ends a pause of accepting, for udpring_net_fileno(). io_uring: -1 */
    struct __kernel_timespec pause;  /* io_uring: of the timeout that does the same */
    bool pause_armed;
    uint64_t wake_word;              /* io_uring reads wake_fd into it */
    bool wake_armed;
    bool known_ends, bundles;
    bool hasty;                      /* something follows a silent send of this round */
    int failed;                      /* io_uring: error of a round that also had events. The next turn returns it */
    bool open, stopping;
    uint64_t owner;                  /* ur_thread_number() */
    int32_t owner_tid;
    uint32_t forks;

    struct net_connection *connections;
    uint32_t free_head, free_count;
    uint32_t top;                    /* places at or above it were never used */
    /* To advance. [2 x connections]: while a round advances all, each may be marked again, behind them. */
    uint32_t *marked, marked_count;
    uint32_t *silent, silent_count;  /* with a send of that kind under way */
    uint32_t *retired, retired_count;    /* closed in this turn */
    struct net_listener listeners[UDPRING_NET_LISTENERS_MAX];
    uint32_t listeners_top;
    struct net_buffer_list buffers;
    struct net_chunk *free_chunks;
    uint32_t free_chunk_count;
};

static inline uint64_t net_id(const struct udpring_net *net, const struct net_connection *connection)
{
    return (uint64_t)connection->generation << 32 | (uint64_t)(connection - net->connections);
}

/* Whether data is wanted from it. */
static inline bool net_reads(const struct net_connection *connection)
{
    return !connection->ended && !connection->paused && !connection->full && !connection->closing && !connection->dead;
}
#endif
