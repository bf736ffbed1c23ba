/* Helpers of the probe: perform one operation, and describe its outcome in words. */
#include "probe.h"

const char ur_probe_greeting[UR_PROBE_BYTES] = "udpring";

int ur_probe_works(struct probe *probe, enum udpring_feature which, const char *seen)
{
    probe->results[which].works = 1;
    return ur_fail(&probe->results[which].reason, 0, "%s", seen);
}

int ur_probe_fails(struct probe *probe, enum udpring_feature which, int code, const char *what)
{
    probe->results[which].code = code;
    if (code == -ETIME)
        return ur_fail(&probe->results[which].reason, code, "%s: no completion within 1 s", what);
    if (code == -EINVAL || code == -EOPNOTSUPP)
        return ur_fail(&probe->results[which].reason, code, "%s: %s: this kernel is too old for it, or a policy forbids it",
                       what, strerror(-code));
    return ur_fail(&probe->results[which].reason, code, "%s: %s", what, strerror(-code));
}

struct io_uring_sqe *ur_probe_prepare(struct probe *probe, enum io_uring_op opcode, int fd)
{
    struct io_uring_sqe *sqe = ur_sqe_or_submit(&probe->ring);
    if (!sqe)
        return NULL;
    sqe->opcode = (uint8_t)opcode;
    sqe->fd = fd;
    sqe->user_data = ++probe->serial;
    return sqe;
}

/* Submits and waits for the next completion with this user_data. Discards others. */
int ur_probe_await(struct probe *probe, uint64_t user_data, struct io_uring_cqe *out)
{
    int64_t deadline = (int64_t)ur_clock_ns(CLOCK_MONOTONIC) + UR_PROBE_WAIT_NS;
    for (;;) {
        int64_t left = deadline - (int64_t)ur_clock_ns(CLOCK_MONOTONIC);
        int code = ur_submit_and_wait(&probe->ring, 1, left > 0 ? left : 0);
        if (code && code != -EINTR)
            return code;
        while (ur_cq_ready(&probe->ring)) {
            *out = *ur_cq_at(&probe->ring, 0);
            ur_cq_advance(&probe->ring, 1);
            if (out->user_data == user_data)
                return 0;
        }
    }
}

/* Returns the result of the newest operation, or the reason why there is none. */
int ur_probe_outcome(struct probe *probe, struct io_uring_cqe *out)
{
    int code = ur_probe_await(probe, probe->serial, out);
    return code ? code : out->res;
}

void ur_probe_cancel(struct probe *probe, uint64_t user_data)
{
    struct io_uring_cqe cqe;
    struct io_uring_sqe *sqe = ur_probe_prepare(probe, IORING_OP_ASYNC_CANCEL, -1);
    if (!sqe)
        return;
    sqe->addr = user_data;
    if (ur_probe_await(probe, user_data, &cqe))
        return;
}

bool ur_probe_send_greeting(struct probe *probe)
{
    ssize_t sent = probe->to.sin_family
                       ? sendto(probe->sender, ur_probe_greeting, UR_PROBE_BYTES, 0, (struct sockaddr *)&probe->to,
                                sizeof(probe->to))
                       : send(probe->sender, ur_probe_greeting, UR_PROBE_BYTES, 0);
    return sent == (ssize_t)UR_PROBE_BYTES;
}
