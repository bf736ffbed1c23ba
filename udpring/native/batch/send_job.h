/* Internal to sending for Python: the core's state of a batch, and the order in which its datagrams leave. */
#ifndef UDPRING_BATCH_SEND_JOB_H
#define UDPRING_BATCH_SEND_JOB_H
#include "../base.h"   /* include first: it defines _GNU_SOURCE */

#include <sys/uio.h>

#include "../udp/abi.h"

#define SEND_WINDOW 4096u   /* datagrams that are grouped by destination together */

/* A job that was submitted. "Position" counts in the order of sending, "index" in the order of the caller's arrays.
 * A job is flat or gathered. Flat: datagrams are sent in memory order (vector is NULL, position = index, the next one is at
 * data + flat). Gathered: datagrams have offsets or are grouped by destination (one vector entry a position).
 * Owner: the udpring_send. Thread: its owner's. Kept for the next job when it ended, freed by send_job_free(). */
struct send_job {
    struct udpring_send_job *face;
    struct send_job *next;        /* in the queue of jobs that are not completely pushed, or in the list of spare jobs */
    void *memory;                 /* the arrays, room for `capacity` datagrams */
    uint32_t capacity;
    const uint32_t *lengths;      /* [count] by index, a copy. NULL: face->length */
    const uint64_t *offsets;      /* [count] by index, a copy. NULL: one after the other */
    uint32_t *order;              /* [planned] index by position. NULL: the same */
    struct iovec *vector;         /* [planned] by position. NULL: flat */
    uint32_t planned, at;         /* positions laid out. Position of the next to push */
    bool control;                 /* its datagrams need control messages (source, interface, TOS or TTL) */
    uint32_t last;                /* length of the last datagram when `lengths` is NULL */
    uint64_t flat;                /* flat: offset of position `at`. Gathered without offsets: of index `planned` */
};

/* Datagrams that leave in one send. If gathered, they have `vectors` pieces from `vector` on. Adjacent pieces are merged. */
struct send_train {
    const uint8_t *data;          /* flat */
    struct iovec *vector;         /* gathered */
    uint32_t vectors;
    uint32_t first, count;        /* positions */
    uint32_t segment, length;     /* bytes of each but the last, and of all */
};

/* Finds datagrams of one destination, within one window. Owner: the udpring_send it is embedded in. Thread: its owner's.
 * Nothing to free. */
struct send_plan {
    uint64_t seed;                       /* random: remote parties choose addresses, and must not be able to cause collisions */
    uint16_t table[2 * SEND_WINDOW];     /* group + 1 */
    uint16_t next[SEND_WINDOW];          /* datagram of the window -> the next of its group */
    uint16_t head[SEND_WINDOW], tail[SEND_WINDOW];
};

/* Checks the caller's job and copies the arrays that the caller may change. `group`: by destination. 0, -EINVAL, -ENOMEM. */
int send_job_take(struct send_job *job, struct udpring_send_job *face, bool group) UR_MUST_CHECK;
void send_job_free(struct send_job *job);
/* Lays out the next window, once all positions laid out so far were pushed. */
void send_job_plan(struct send_job *job, struct send_plan *plan);
/* Cuts the next train: neighbours of equal size to one destination, at most `segments` of them and at most `bytes`. */
void send_job_cut(const struct send_job *job, uint32_t segments, uint32_t bytes, struct send_train *train);
/* Moves past a train that was cut, and merges its vector. */
void send_job_advance(struct send_job *job, struct send_train *train);
/* The address of the payload of datagram n of a train. */
const uint8_t *send_train_datagram(const struct send_train *train, uint32_t n);

uint64_t send_address_hash(const struct udpring_address *address, uint64_t seed);

static inline bool send_address_equal(const struct udpring_address *a, const struct udpring_address *b)
{
    return !memcmp(a, b, sizeof(*a));
}

static inline uint32_t send_job_index(const struct send_job *job, uint32_t position)
{
    /* A window contains the same indexes as positions, so beyond the planned windows index and position are equal. */
    return job->order && position < job->planned ? job->order[position] : position;
}

static inline uint32_t send_job_length(const struct send_job *job, uint32_t index)
{
    if (job->lengths)
        return job->lengths[index];
    return index + 1 == job->face->count ? job->last : job->face->length;
}

/* NULL: the socket is connected. */
static inline const struct udpring_address *send_job_address(const struct send_job *job, uint32_t index)
{
    if (!job->face->address_count)
        return NULL;
    return &job->face->addresses[job->face->address_count == 1 ? 0 : index];
}

static inline uint32_t send_train_length(const struct send_train *train, uint32_t n)
{
    return n + 1 < train->count ? train->segment : train->length - n * train->segment;
}
#endif
