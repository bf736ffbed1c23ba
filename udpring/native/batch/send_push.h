/* Inside of sending for Python: the jobs that are queued and the sends that are out. Not for other rooms.
 * send.c has what Python calls and waits; send_push.c moves the datagrams. */
#ifndef UDPRING_BATCH_SEND_PUSH_H
#define UDPRING_BATCH_SEND_PUSH_H
#include "../base.h"

#include <stdatomic.h>

#include "../udp/handle.h"
#include "../udp/tx.h"

#include "send_job.h"
#include "send_path.h"

#define SEND_NO_PIECE UINT32_MAX
/* Bytes of a train: with the headers of UDP, IPv6, a VLAN and Ethernet just under the 65536 at which a device takes no
 * more offload; also below the 65507 that IPv4 takes. */
#define SEND_TRAIN_BYTES 65440u

/* One send that has no result yet, or a refused train whose datagrams are being sent.
 * Owner: the udpring_send. Thread: its owner's. Freed with it. */
struct send_piece {
    struct send_job *job;         /* NULL: free */
    struct send_train train;
    uint32_t path;                /* of an unproven train */
    uint32_t next;                /* in the list of those to be sent again */
    uint32_t again, left;         /* once refused: datagrams pushed singly; of them and the rest without a result */
};

/* Owner: who opened it. Thread: the opener's, but as said. Freed by udpring_send_free(). */
struct udpring_send {
    struct udp_handle_owner owner;
    struct udp_handle_socket socket;
    atomic_bool closed;                 /* whoever sets it ends the send side: once */
    struct udp_tx *tx;                  /* NULL after close; the owner's thread, or whoever closes */
    struct udpring_tx_stats published;  /* for any thread: udp_counters_read() */
    uint64_t pending;                   /* written by the owner; read by any thread, relaxed */
    int32_t zero_copy;                  /* likewise: UDPRING_ZC_* */
    uint64_t helped;                    /* likewise: datagrams that helpers sent */
    int wake;                           /* eventfd */
    int epoll;                          /* for event loops; -1: nobody asked */
    int polled;                         /* the socket in it, or -1 */
    bool trains;
    struct send_job *first, *last;      /* not all pushed */
    struct send_job *spare;
    uint32_t spares;
    struct send_piece *piece;                /* one a send slot: a piece has a slot, or waits to be sent again and nothing else goes */
    uint32_t pieces, free_count;
    uint32_t *free;                     /* stack */
    uint32_t again_first, again_last;   /* refused trains, in order */
    uint64_t unfinished, finished;      /* datagrams without a result; jobs that ended */
    struct send_paths paths;
    struct send_plan plan;
    struct send_fan *fan;               /* NULL: nobody helps */
};

/* 0, or why the ring may not be used: by this thread, in this process, or not any more. */
static inline int send_check(const struct udpring_send *send)
{
    int code = udp_handle_check(&send->owner);
    return code ? code : send->tx ? 0 : -ECANCELED;
}

/* What all sends of a job have in common, and where this one goes. 0 or -EAFNOSUPPORT. Reads only. */
int send_make_item(const struct udpring_send *send, const struct send_job *job, const struct udpring_address *to,
                   struct udp_tx_item *item);

/* The job has all its results, or was never queued: its memory is for the next one. */
void send_end_job(struct udpring_send *send, struct send_job *job);
/* Sends what goes without waiting. 0, or a fatal -errno. */
int send_advance(struct udpring_send *send);
/* Before the owner may sleep in an event loop: `epoll` is readable while there is something to do. */
void send_prepare_poll(struct udpring_send *send);
/* Ends what of this job, or of all (NULL), is not with the kernel, with this -errno. */
void send_drop(struct udpring_send *send, const struct udpring_send_job *face, int32_t result);
/* After the ring was closed: ends what the kernel had. */
void send_give_up(struct udpring_send *send, int32_t result);
/* After the ring was closed: moves all jobs to the spare ones, to be freed with them. `kept`: the kernel did not let go, and what
 * it may still read stays where it is. */
void send_forget_jobs(struct udpring_send *send, bool kept);
#endif
