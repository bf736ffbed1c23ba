/* Shared by fuzz_send.c and send_jobs.c: the submitted jobs and each of their datagrams. */
#ifndef UDPRING_FUZZ_SEND_MODEL_H
#define UDPRING_FUZZ_SEND_MODEL_H
#include "model_kernel.h"
#include "batch/send_push.h"

enum { JOBS = 10, DESTINATIONS = 48, PEER = DESTINATIONS - 1, ITEMS = 24576, LENGTH_OF_ID = 4 };

enum item_state { ITEM_WAITS, ITEM_SENT, ITEM_CUT };   /* cut: the kernel took a part of it */

/* One datagram. Its payload begins with its number if it is long enough. */
struct item {
    uint32_t length;
    uint8_t job, destination, state;
};
/* Owner: the harness. `data` and other memory that the core may read until the job ends are freed when it ends. */
/* Owner: the harness. `data` and what the core may read until the job ends are freed when it does. */
struct job {
    bool live, ordered, closed;   /* closed: the ring was closed before its end, so pending datagrams may have been sent */
    uint32_t first, last_sent;    /* numbers of its datagrams */
    struct udpring_send_job face;
    struct udpring_address source;
};

extern struct send_model {
    struct udpring_send *send;
    int fd, family, tier;
    bool gone;                    /* the socket was closed */
    struct job job[JOBS + 1];     /* the last: a datagram sent without a job */
    bool kept;                    /* the kernel kept payloads at the close, so they stay */
    void *payload[JOBS];
    uint32_t payloads;
    struct item item[ITEMS];
    uint32_t items;
    uint64_t submitted, ended;    /* jobs */
    uint64_t accepted, bytes;     /* by the kernel: datagrams */
    uint64_t short_sent, short_reported;   /* datagrams too short for a number: sent; reported as sent */
    struct udpring_address destination[DESTINATIONS];
    uint32_t last[DESTINATIONS];  /* number of the datagram sent last to it */
    uint32_t refuses[DESTINATIONS];   /* trains of such segments and larger; 1: all; 0: none */
    int refusal;
    bool rerouted;                /* routes have changed: refused datagrams go behind those sent meanwhile */
    /* Faults of the kernel. */
    int error, zero_copy_error;
    uint32_t errors, zero_copy_errors;
    bool cuts;
    uint32_t drains;              /* bytes that leave the buffer with each send */
} send_model;

void *__real_malloc(size_t bytes);   /* the harness's own allocations never fail */

/* Submits one job as the input says; some are refused. */
void jobs_submit(struct input *input);
/* Looks for ended jobs, checks their results, frees their memory. */
void jobs_check(void);
/* The ring is closed and touched no job that had ended. */
void jobs_forget(void);
/* One datagram without a job. */
void jobs_send_one(struct input *input);
int32_t jobs_sent(const struct kernel_send *message);   /* kernel.send */
void jobs_fill(uint32_t number, uint8_t *at, uint32_t length);
#endif
