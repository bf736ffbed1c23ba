/* The features of the probe, one function each. It tries the feature once and checks the result. */
#include "../base.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "probe.h"

#define MESSAGE_VALUE 77

int ur_probe_timeout(struct probe *probe)
{
    uint64_t before = ur_clock_ns(CLOCK_MONOTONIC);
    int code = ur_submit_and_wait(&probe->ring, 1, 1000000);
    if (code == -ETIME && ur_clock_ns(CLOCK_MONOTONIC) - before >= 1000000)
        return ur_probe_works(probe, UDPRING_FEATURE_TIMEOUT, "a wait of 1 ms ended on time");
    return ur_probe_fails(probe, UDPRING_FEATURE_TIMEOUT, code ? code : -EPROTO, "IORING_ENTER_EXT_ARG, a wait of 1 ms");
}

int ur_probe_recvmsg(struct probe *probe)
{
    const enum udpring_feature which = UDPRING_FEATURE_RECVMSG;
    struct io_uring_cqe cqe;
    struct io_uring_sqe *sqe = ur_probe_prepare(probe, IORING_OP_RECVMSG, probe->receiver);
    if (!sqe)
        return ur_probe_fails(probe, which, -EAGAIN, "submission");
    probe->vector = (struct iovec){.iov_base = probe->payload, .iov_len = sizeof(probe->payload)};
    probe->header = (struct msghdr){.msg_name = &probe->name, .msg_namelen = sizeof(probe->name), .msg_iov = &probe->vector,
                                    .msg_iovlen = 1};
    sqe->addr = (uint64_t)(uintptr_t)&probe->header;
    sqe->len = 1;
    if (ur_submit(&probe->ring) < 0 || !ur_probe_send_greeting(probe))
        return ur_probe_fails(probe, which, -errno, "sendto");
    int code = ur_probe_outcome(probe, &cqe);
    if (code < 0)
        return ur_probe_fails(probe, which, code, "IORING_OP_RECVMSG");
    if (code != (int)UR_PROBE_BYTES || memcmp(probe->payload, ur_probe_greeting, UR_PROBE_BYTES) ||
        (probe->to.sin_family && probe->name.ss_family != AF_INET))
        return ur_probe_fails(probe, which, -EPROTO, "IORING_OP_RECVMSG gave other bytes, or no address");
    return ur_probe_works(probe, which, probe->to.sin_family ? "a datagram and its address arrived"
                                                    : "a datagram arrived (Unix socket: loopback is down)");
}

int ur_probe_sendmsg(struct probe *probe)
{
    const enum udpring_feature which = UDPRING_FEATURE_SENDMSG;
    char seen[UR_PROBE_BYTES];
    struct io_uring_cqe cqe;
    struct io_uring_sqe *sqe = ur_probe_prepare(probe, IORING_OP_SENDMSG, probe->sender);
    if (!sqe)
        return ur_probe_fails(probe, which, -EAGAIN, "submission");
    memcpy(probe->payload, ur_probe_greeting, UR_PROBE_BYTES);
    memcpy(&probe->name, &probe->to, sizeof(probe->to));
    probe->vector = (struct iovec){.iov_base = probe->payload, .iov_len = UR_PROBE_BYTES};
    probe->header = (struct msghdr){.msg_iov = &probe->vector, .msg_iovlen = 1};
    if (probe->to.sin_family) {
        probe->header.msg_name = &probe->name;
        probe->header.msg_namelen = sizeof(probe->to);
    }
    sqe->addr = (uint64_t)(uintptr_t)&probe->header;
    sqe->len = 1;
    int code = ur_probe_outcome(probe, &cqe);
    if (code < 0)
        return ur_probe_fails(probe, which, code, "IORING_OP_SENDMSG");
    struct pollfd arrived = {.fd = probe->receiver, .events = POLLIN};
    if (poll(&arrived, 1, 1000) != 1 || recv(probe->receiver, seen, sizeof(seen), MSG_DONTWAIT) != (ssize_t)sizeof(seen) ||
        memcmp(seen, ur_probe_greeting, sizeof(seen)))
        return ur_probe_fails(probe, which, -EPROTO, "IORING_OP_SENDMSG: the datagram did not arrive");
    return ur_probe_works(probe, which, "a datagram was sent");
}

int ur_probe_buffer_ring(struct probe *probe)
{
    const enum udpring_feature which = UDPRING_FEATURE_BUFFER_RING;
    struct io_uring_cqe cqe;
    int code = ur_bufring_open(&probe->buffers, &probe->ring, 1, UR_PROBE_BUFFERS, &probe->results[which].reason);
    if (code)
        return probe->results[which].code = code;
    for (uint16_t id = 0; id < UR_PROBE_BUFFERS; id++)
        ur_bufring_add(&probe->buffers, probe->memory[id], UR_PROBE_BUFFER_BYTES, id);
    ur_bufring_publish(&probe->buffers);
    struct io_uring_sqe *sqe = ur_probe_prepare(probe, IORING_OP_RECV, probe->receiver);
    if (!sqe || !ur_probe_send_greeting(probe))
        return ur_probe_fails(probe, which, -EAGAIN, "submission");
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->buf_group = 1;
    code = ur_probe_outcome(probe, &cqe);
    if (code < 0)
        return ur_probe_fails(probe, which, code, "IORING_OP_RECV with a provided buffer");
    uint32_t id = cqe.flags >> IORING_CQE_BUFFER_SHIFT;
    if (!(cqe.flags & IORING_CQE_F_BUFFER) || id >= UR_PROBE_BUFFERS ||
        memcmp(probe->memory[id], ur_probe_greeting, UR_PROBE_BYTES))
        return ur_probe_fails(probe, which, -EPROTO, "IORING_OP_RECV chose no buffer");
    return ur_probe_works(probe, which, "the kernel chose a buffer and filled it");
}

/* Checks that one submission yields two messages, which `write_one` writes to `fd`. */
static int two_shots(struct probe *probe, struct io_uring_sqe *sqe, size_t before, bool (*write_one)(struct probe *, int),
                     int fd)
{
    uint64_t user_data = sqe->user_data;
    int code = ur_submit(&probe->ring);
    if (code < 0)
        return code;
    for (int shot = 0; shot < 2; shot++) {
        struct io_uring_cqe cqe;
        if (!write_one(probe, fd))
            return -errno;
        code = ur_probe_await(probe, user_data, &cqe);
        if (code || cqe.res < 0)
            return code ? code : cqe.res;
        uint32_t id = cqe.flags >> IORING_CQE_BUFFER_SHIFT;
        if (!(cqe.flags & IORING_CQE_F_BUFFER) || id >= UR_PROBE_BUFFERS || cqe.res != (int)(before + UR_PROBE_BYTES) ||
            memcmp(probe->memory[id] + before, ur_probe_greeting, UR_PROBE_BYTES) || !(cqe.flags & IORING_CQE_F_MORE))
            return -EPROTO;
    }
    ur_probe_cancel(probe, user_data);
    return 0;
}

static bool write_datagram(struct probe *probe, int fd)
{
    (void)fd;
    return ur_probe_send_greeting(probe);
}

static bool write_pipe(struct probe *probe, int fd)
{
    (void)probe;
    return write(fd, ur_probe_greeting, UR_PROBE_BYTES) == (ssize_t)UR_PROBE_BYTES;
}

int ur_probe_recvmsg_multishot(struct probe *probe)
{
    const enum udpring_feature which = UDPRING_FEATURE_RECVMSG_MULTISHOT;
    if (!probe->buffers.entries)
        return ur_probe_fails(probe, which, -EOPNOTSUPP, "it needs a buffer ring");
    struct io_uring_sqe *sqe = ur_probe_prepare(probe, IORING_OP_RECVMSG, probe->receiver);
    if (!sqe)
        return ur_probe_fails(probe, which, -EAGAIN, "submission");
    probe->header = (struct msghdr){.msg_namelen = sizeof(struct sockaddr_in)};
    sqe->addr = (uint64_t)(uintptr_t)&probe->header;
    sqe->len = 1;
    sqe->flags = IOSQE_BUFFER_SELECT;
    sqe->buf_group = 1;
    sqe->ioprio = IORING_RECV_MULTISHOT;
    int code = two_shots(probe, sqe, sizeof(struct io_uring_recvmsg_out) + sizeof(struct sockaddr_in), write_datagram, -1);
    if (code)
        return ur_probe_fails(probe, which, code, "IORING_OP_RECVMSG with IORING_RECV_MULTISHOT");
    return ur_probe_works(probe, which, "one submission received two datagrams");
}

int ur_probe_read_multishot(struct probe *probe)
{
    const enum udpring_feature which = UDPRING_FEATURE_READ_MULTISHOT;
    int ends[2];
    if (!probe->buffers.entries)
        return ur_probe_fails(probe, which, -EOPNOTSUPP, "it needs a buffer ring");
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK))
        return ur_probe_fails(probe, which, -errno, "pipe");
    struct io_uring_sqe *sqe = ur_probe_prepare(probe, IORING_OP_READ_MULTISHOT, ends[0]);
    int code = -EAGAIN;
    if (sqe) {
        sqe->off = UINT64_MAX;
        sqe->flags = IOSQE_BUFFER_SELECT;
        sqe->buf_group = 1;
        code = two_shots(probe, sqe, 0, write_pipe, ends[1]);
    }
    close(ends[0]);
    close(ends[1]);
    if (code)
        return ur_probe_fails(probe, which, code, "IORING_OP_READ_MULTISHOT");
    return ur_probe_works(probe, which, "one submission read a pipe twice");
}

int ur_probe_cancel_any(struct probe *probe)
{
    const enum udpring_feature which = UDPRING_FEATURE_CANCEL_ANY;
    struct io_uring_cqe cqe;
    struct io_uring_sqe *waiting = ur_probe_prepare(probe, IORING_OP_POLL_ADD, probe->receiver);
    if (!waiting)
        return ur_probe_fails(probe, which, -EAGAIN, "submission");
    uint64_t user_data = waiting->user_data;
    waiting->poll32_events = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__ ? (uint32_t)POLLIN << 16 : POLLIN;
    int code = ur_submit(&probe->ring);
    struct io_uring_sqe *sqe = ur_probe_prepare(probe, IORING_OP_ASYNC_CANCEL, -1);
    if (code < 0 || !sqe)
        return ur_probe_fails(probe, which, code < 0 ? code : -EAGAIN, "submission");
    sqe->cancel_flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL;
    code = ur_probe_await(probe, user_data, &cqe);
    if (code || cqe.res != -ECANCELED)
        return ur_probe_fails(probe, which, code ? code : -EPROTO, "IORING_ASYNC_CANCEL_ANY did not end a poll");
    return ur_probe_works(probe, which, "one request ended everything in flight");
}

int ur_probe_msg_ring(struct probe *probe)
{
    const enum udpring_feature which = UDPRING_FEATURE_MSG_RING;
    const uint64_t message = (uint64_t)UR_KIND_MESSAGE << 56 | MESSAGE_VALUE;
    struct io_uring_cqe cqe;
    struct io_uring_sqe *sqe = ur_probe_prepare(probe, IORING_OP_MSG_RING, probe->ring.fd);
    if (!sqe)
        return ur_probe_fails(probe, which, -EAGAIN, "submission");
    /* The two completions arrive in any order, so wait only for the message. A refusal is a single completion. */
    sqe->flags = IOSQE_CQE_SKIP_SUCCESS;
    sqe->user_data = message + 1;
    sqe->addr = IORING_MSG_DATA;
    sqe->off = message;
    sqe->len = MESSAGE_VALUE;
    int code = ur_submit_and_wait(&probe->ring, 1, UR_PROBE_WAIT_NS);
    if (code)
        return ur_probe_fails(probe, which, code, "IORING_OP_MSG_RING");
    code = ur_probe_await(probe, ur_cq_at(&probe->ring, 0)->user_data, &cqe);
    if (code || cqe.res != MESSAGE_VALUE || cqe.user_data != message)
        return ur_probe_fails(probe, which, code ? code : cqe.res < 0 ? cqe.res : -EPROTO, "IORING_OP_MSG_RING");
    return ur_probe_works(probe, which, "a ring sent itself a message");
}

int ur_probe_nop_inject(struct probe *probe)
{
    const enum udpring_feature which = UDPRING_FEATURE_NOP_INJECT;
    struct io_uring_cqe cqe;
    struct io_uring_sqe *sqe = ur_probe_prepare(probe, IORING_OP_NOP, -1);
    if (!sqe)
        return ur_probe_fails(probe, which, -EAGAIN, "submission");
    sqe->nop_flags = IORING_NOP_INJECT_RESULT;
    sqe->len = MESSAGE_VALUE;
    int code = ur_probe_outcome(probe, &cqe);
    if (code != MESSAGE_VALUE)
        return ur_probe_fails(probe, which, code < 0 ? code : -EOPNOTSUPP, "IORING_NOP_INJECT_RESULT");
    return ur_probe_works(probe, which, "a NOP returned the injected result");
}
