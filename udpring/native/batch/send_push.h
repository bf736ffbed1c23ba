/* Internal to sending for Python: the queued jobs and the pending sends. send.c has the functions for Python and the waiting.
 * send_push.c pushes the datagrams and takes their results. */
#ifndef UDPRING_BATCH_SEND_PUSH_H
#define UDPRING_BATCH_SEND_PUSH_H
#include "../base.h"

#include <stdatomic.h>

#include "../udp/handle.h"
#include "../udp/tx.h"
#include "../udp/tx_singles.h"

#include "send_job.h"
#include "send_path.h"

#define SEND_NO_PIECE UINT32_MAX
/* The most bytes of a train. With the headers of UDP, IPv6, a VLAN and Ethernet it stays just below 65536, from which on
 * devices offload no segmentation. It is also below IPv4's limit of 65507. */
#define SEND_TRAIN_BYTES 65440u

/* One send that has no result yet, or a refused train whose datagrams are being sent one by one.
 * Owner: the udpring_send. Thread: its owner's. Freed with it. */
struct send_piece {
    struct send_job *job;         /* NULL: free */
    struct send_train train;
    uint32_t path;                /* of an unproven train */
    uint32_t next;                /* in the list of trains to send again */
    uint32_t again, left;         /* of a refused train: datagrams pushed singly so far, and datagrams without a result */
};

/* Owner: the caller of udpring_send_open(). Thread: the opener's, except where noted. Freed by udpring_send_free(). */
struct udpring_send {
    struct udp_handle_owner owner;
    struct udp_handle_socket socket;
    atomic_bool closed;                 /* the thread that sets it ends the send side, once */
    struct udp_tx *tx;                  /* NULL after close. For the owner's thread, or the thread that closes */
    struct udpring_tx_stats published;  /* for any thread: udp_counters_read() */
    uint64_t pending;                   /* written by the owner. Read by any thread, relaxed */
    int32_t zero_copy;                  /* like `pending`: UDPRING_ZC_* */
    uint64_t helped;                    /* like `pending`: datagrams sent by helpers */
    _Atomic int wake;                   /* eventfd, made for the first wait or poll: send_wake_fd(). -1: none yet */
    atomic_bool woken;                  /* another thread wants to close. Set before `wake` is written */
    int epoll;                          /* for event loops. -1: not requested yet */
    int polled;                         /* the socket in it, or -1 */
    bool calls_again;                   /* it is kept readable, because the kernel refused to watch the socket */
    bool trains;
    struct send_job *first, *last;      /* queue of jobs that are not completely pushed */
    struct send_job *spare;
    uint32_t spares;
    struct send_piece *piece;                /* one a send slot: a piece has a slot, or waits for its resend */
    uint32_t pieces, free_count;
    uint32_t *free;                     /* stack */
    uint32_t again_first, again_last;   /* refused trains, in order */
    uint64_t unfinished, finished;      /* datagrams without a result. Jobs that ended */
    struct send_paths paths;
    struct send_plan plan;
    struct udp_tx_singles singles;      /* for the length of a call */
    struct send_fan *fan;               /* NULL: no helpers */
};

/* 0, or -errno: -EXDEV for another thread or a forked child, -ECANCELED once closed. */
static inline int send_check(const struct udpring_send *send)
{
    int code = udp_handle_check(&send->owner);
    return code ? code : send->tx ? 0 : -ECANCELED;
}

/* Fills `item` with the fields that all sends of a job share, and the destination of this one. 0 or -EAFNOSUPPORT. Reads
 * only. */
int send_make_item(const struct udpring_send *send, const struct send_job *job, const struct udpring_address *to,
                   struct udp_tx_item *item);

/* Call when the job has all its results, or was never queued. Keeps its memory for the next job. */
void send_end_job(struct udpring_send *send, struct send_job *job);
/* Sends as much as possible without waiting. 0, or a fatal -errno. */
int send_advance(struct udpring_send *send);
/* The eventfd by which another thread wakes the owner, or -errno. */
int send_wake_fd(struct udpring_send *send);
/* Call before the owner waits in an event loop. Makes `epoll` readable while there is work to do. */
void send_prepare_poll(struct udpring_send *send);
/* Ends the datagrams of this job, or of all jobs (NULL), that the kernel does not have, with this -errno. */
void send_drop(struct udpring_send *send, const struct udpring_send_job *face, int32_t result);
/* Call after the ring was closed: ends the sends that the kernel had. */
void send_give_up(struct udpring_send *send, int32_t result);
/* Call after the ring was closed: moves all jobs to the list of spare jobs, which is freed later. `kept`: sends did not end
 * within the bound, so memory that the kernel may still read is not freed. */
void send_forget_jobs(struct udpring_send *send, bool kept);
#endif
