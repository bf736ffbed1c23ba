/* The probe of options and registrations, each on a ring of its own, and the list of operations. */
#include <stdlib.h>

#include "probe.h"

/* Opens a ring with options and runs one NOP on it. */
static int try_ring(struct probe *probe, enum udpring_feature which, const struct ur_ring_options *options, const char *called)
{
    struct udpring_reason why = {""};
    struct ur_ring ring;
    int code = ur_ring_open(&ring, options, &why);
    if (code) {
        probe->results[which].code = code;
        probe->results[which].reason = why;
        return code;
    }
    struct io_uring_sqe *sqe = ur_sqe(&ring);
    sqe->user_data = UR_USER_DATA(UR_KIND_PYTHON, 0, 0);
    code = options->disabled ? ur_ring_enable(&ring) : 0;
    if (!code)
        code = ur_submit_and_wait(&ring, 1, UR_PROBE_WAIT_NS);
    if (!code)
        code = ur_cq_at(&ring, 0)->res;
    ur_ring_close(&ring);
    return code ? ur_probe_fails(probe, which, code, called) : ur_probe_works(probe, which, called);
}

static int try_option(struct probe *probe, enum udpring_feature which, uint32_t flag, const char *called)
{
    const struct ur_ring_options options = {.entries = 8, .flags_want = flag, .sq_thread_idle = 1, .wq_fd = (uint32_t)probe->ring.fd};
    return try_ring(probe, which, &options, called);
}

int ur_probe_disabled(struct probe *probe)
{
    const struct ur_ring_options options = {.entries = 8, .disabled = true};
    return try_ring(probe, UDPRING_FEATURE_DISABLED, &options, "a ring without an owner was enabled");
}

int ur_probe_attach(struct probe *probe)
{
    return try_option(probe, UDPRING_FEATURE_ATTACH, IORING_SETUP_ATTACH_WQ, "a ring shares the workers of another");
}

int ur_probe_iowq_workers(struct probe *probe)
{
    uint32_t limits[2] = {0, 0};   /* no change */
    int code = ur_ring_register(&probe->ring, IORING_REGISTER_IOWQ_MAX_WORKERS, limits, 2);
    if (code < 0)
        return ur_probe_fails(probe, UDPRING_FEATURE_IOWQ_WORKERS, code, "IORING_REGISTER_IOWQ_MAX_WORKERS (Linux 5.15)");
    return ur_probe_works(probe, UDPRING_FEATURE_IOWQ_WORKERS, "the number of worker threads can be bounded");
}

int ur_probe_sq_poll(struct probe *probe)
{
    return try_option(probe, UDPRING_FEATURE_SQ_POLL, IORING_SETUP_SQPOLL, "a NOP submitted by a thread of the kernel");
}

int ur_probe_big_sqe(struct probe *probe)
{
    return try_option(probe, UDPRING_FEATURE_BIG_SQE, IORING_SETUP_SQE128, "a NOP in an entry of 128 bytes");
}

int ur_probe_big_cqe(struct probe *probe)
{
    return try_option(probe, UDPRING_FEATURE_BIG_CQE, IORING_SETUP_CQE32, "a NOP with a completion of 32 bytes");
}

int ur_probe_mixed_cqe(struct probe *probe)
{
    return try_option(probe, UDPRING_FEATURE_MIXED_CQE, IORING_SETUP_CQE_MIXED, "a NOP in a queue of mixed completions");
}

int ur_probe_napi(struct probe *probe)
{
    struct io_uring_napi napi = {.busy_poll_to = 1};
    int code = ur_ring_register(&probe->ring, IORING_REGISTER_NAPI, &napi, 1);
    if (code < 0)
        return ur_probe_fails(probe, UDPRING_FEATURE_NAPI, code, "IORING_REGISTER_NAPI (Linux 6.9)");
    ur_ring_register(&probe->ring, IORING_UNREGISTER_NAPI, &napi, 1);
    return ur_probe_works(probe, UDPRING_FEATURE_NAPI, "busy polling can be switched on");
}

int ur_probe_resize(struct probe *probe)
{
    int code = ur_ring_resize(&probe->ring, 64, 256);
    if (code < 0)
        return ur_probe_fails(probe, UDPRING_FEATURE_RESIZE, code, "IORING_REGISTER_RESIZE_RINGS (Linux 6.13)");
    return ur_probe_works(probe, UDPRING_FEATURE_RESIZE, "the queues of an open ring were made bigger");
}

int32_t udpring_uring_operations(uint8_t *known, uint32_t max)
{
    enum { ALL = 256 };
    const struct ur_ring_options options = {.entries = 8};
    struct io_uring_probe *listed = calloc(1, sizeof(*listed) + ALL * sizeof(listed->ops[0]));
    struct ur_ring ring;
    int code = listed ? ur_ring_open(&ring, &options, NULL) : -ENOMEM;
    if (!code) {
        code = ur_ring_register(&ring, IORING_REGISTER_PROBE, listed, ALL);
        ur_ring_close(&ring);
    }
    for (uint32_t i = 0; i < max; i++)
        known[i] = !code && i < listed->ops_len && (listed->ops[i].flags & IO_URING_OP_SUPPORTED);
    if (!code)
        code = listed->last_op + 1;
    free(listed);
    return code;
}
