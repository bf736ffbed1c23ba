/* What fuzz_send.c and send_jobs.c share: the jobs that were submitted, and each of their datagrams. */
#ifndef UDPRING_FUZZ_SEND_MODEL_H
#define UDPRING_FUZZ_SEND_MODEL_H
#include "model_kernel.h"
#include "batch/send_push.h"

enum { JOBS = 10, DESTINATIONS = 48, PEER = DESTINATIONS - 1, ITEMS = 24576, LENGTH_OF_ID = 4 };

enum item_state { ITEM_WAITS, ITEM_SENT, ITEM_CUT };   /* cut: the kernel took a part of it */

/* One datagram. Its payload begins with its number, where it is long enough. */
struct item {
    uint32_t length;
    uint8_t job, destination, state;
};

/* Owner: the harness. `data` and what the core may read until the job ends are freed when it does. */
struct job {
    bool live, ordered, closed;   /* closed: the ring was closed under it: what was out may have been sent */
    uint32_t first, last_sent;    /* numbers of its datagrams */
    struct udpring_send_job face;
    struct udpring_address source;
};

extern struct send_model {
    struct udpring_send *send;
    int fd, family, tier;
    bool gone;                    /* the socket was closed */
    struct job job[JOBS + 1];     /* the last: a datagram that goes without a job */
    bool kept;                    /* the kernel did not let go at close: payloads stay */
    void *payload[JOBS];
    uint32_t payloads;
    struct item item[ITEMS];
    uint32_t items;
    uint64_t submitted, ended;    /* jobs */
    uint64_t accepted, bytes;     /* by the kernel: datagrams */
    uint64_t short_sent, short_reported;   /* datagrams too short for a number: taken; told so */
    struct udpring_address destination[DESTINATIONS];
    uint32_t last[DESTINATIONS];  /* number of the datagram sent last to it */
    uint32_t refuses[DESTINATIONS];   /* trains of such segments and larger; 1: all; 0: none */
    int refusal;
    bool rerouted;                /* routes have changed: what is refused now goes behind what went meanwhile */
    /* The kernel's mood. */
    int error, zero_copy_error;
    uint32_t errors, zero_copy_errors;
    bool cuts;
    uint32_t drains;              /* bytes that leave the buffer with each send */
} send_model;

void *__real_malloc(size_t bytes);   /* the harness's own memory never lacks */

/* Submits one job as the input says; some are refused. */
void jobs_submit(struct input *input);
/* Looks for jobs that ended, checks their results, frees all of them. */
void jobs_check(void);
/* The ring is gone, and looked at none that had not ended. */
void jobs_forget(void);
/* One datagram without a job. */
void jobs_send_one(struct input *input);
int32_t jobs_sent(const struct kernel_send *message);   /* kernel.send */
void jobs_fill(uint32_t number, uint8_t *at, uint32_t length);
#endif
