/* Shared by fuzz_recv.c and recv_taken.c: datagrams that arrived, datagrams that the core took, and held batches. */
#ifndef UDPRING_FUZZ_RECV_MODEL_H
#define UDPRING_FUZZ_RECV_MODEL_H
#include "model_kernel.h"

enum { HELD = 12, TAKEN = 512, NUMBER = 4 };

/* A message that the core took from the socket and has not returned. */
struct taken {
    uint32_t first, count, length, segment;   /* first: the number of its first datagram */
    bool truncated;
    struct udpring_address source, local;
    uint64_t time_ns;
    uint8_t tos;
};

struct held {
    struct udpring_batch *batch;
    const uint8_t *base;
    uint64_t sum;
};

extern struct recv_model {
    struct udpring_recv *recv;
    struct udpring_recv_call *call;
    int fd, family;
    uint32_t slot_bytes, number, tier;
    bool whole, closed, gone, dead, starved;      /* dead: no more arrives; starved: memory has failed */
    struct taken taken[TAKEN];
    uint32_t head, tail, at;          /* at: datagrams of the first message that were returned */
    struct held held[HELD];
    uint32_t held_count;
    uint64_t datagrams, bytes, truncated, empty, reported_drops;
    uint32_t drops;
} model;

void *__real_malloc(size_t bytes);   /* the harness's own allocations never fail */

/* Datagrams or trains arrive at the socket, as the input says; or errors and shortages. */
void arrive(struct input *input);
void go_wrong(struct input *input);
void received(int fd, const struct kernel_packet *packet, bool truncated);   /* kernel.received */
/* The message that is returned next. */
const struct taken *front(void);
/* Results: the next datagram; the call's batch, which is then held. */
void take_one(const uint8_t *bytes, uint32_t length);
void take_batch(void);
uint64_t sum_of(const struct udpring_batch *batch);
#endif
