/* Tries the two zero-copy sends once each, and checks the notification that the kernel sends when it no longer uses the memory
 * (io_uring_enter(2), IORING_OP_SEND_ZC). The four outcomes are: refused, no or a wrong notification, copied after all,
 * not copied. The last one does not occur on loopback, where the kernel always copies. */
#include <poll.h>

#include "probe.h"

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
#define SEGMENT_BYTES (UR_PROBE_ZC_BYTES / 2)

struct verdict {
    int code;                     /* UDPRING_ZC_*, or -errno */
    const char *seen;
};

static void fill_address(struct probe *probe)
{
    memset(probe->payload, 'z', sizeof(probe->payload));
    memcpy(&probe->name, &probe->to, sizeof(probe->to));
}

static void fill_send(struct probe *probe, struct io_uring_sqe *sqe)
{
    fill_address(probe);
    sqe->addr = (uint64_t)(uintptr_t)probe->payload;
    sqe->len = UR_PROBE_ZC_BYTES;
    sqe->addr2 = (uint64_t)(uintptr_t)&probe->name;
    sqe->addr_len = sizeof(probe->to);
}

/* Sends a train, because some kernels fail with UDP_SEGMENT and zero copy together (EFAULT, Linux 6.7.2). */
static void fill_sendmsg(struct probe *probe, struct io_uring_sqe *sqe)
{
    fill_address(probe);
    probe->vector = (struct iovec){.iov_base = probe->payload, .iov_len = UR_PROBE_ZC_BYTES};
    probe->header = (struct msghdr){
        .msg_name = &probe->name, .msg_namelen = sizeof(probe->to), .msg_iov = &probe->vector, .msg_iovlen = 1,
        .msg_control = probe->control.bytes, .msg_controllen = CMSG_SPACE(sizeof(uint16_t))};
    struct cmsghdr *segment = &probe->control.aligned;
    const uint16_t bytes = SEGMENT_BYTES;
    *segment = (struct cmsghdr){.cmsg_level = SOL_UDP, .cmsg_type = UDP_SEGMENT, .cmsg_len = CMSG_LEN(sizeof(bytes))};
    memcpy(CMSG_DATA(segment), &bytes, sizeof(bytes));
    sqe->addr = (uint64_t)(uintptr_t)&probe->header;
    sqe->len = 1;
}

/* Receives the data. The notification follows when the last reference to our pages is dropped. False: no data, or other
 * bytes. */
static bool arrived_whole(struct probe *probe)
{
    char bytes[UR_PROBE_ZC_BYTES];
    size_t total = 0;
    struct pollfd arrived = {.fd = probe->receiver, .events = POLLIN};
    while (total < UR_PROBE_ZC_BYTES && poll(&arrived, 1, 1000) == 1) {
        ssize_t got = recv(probe->receiver, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (got <= 0)
            return false;
        for (ssize_t i = 0; i < got; i++)
            if (bytes[i] != 'z')
                return false;
        total += (size_t)got;
    }
    return total == UR_PROBE_ZC_BYTES;
}

static struct verdict send_once(struct probe *probe, enum io_uring_op opcode, bool report)
{
    struct io_uring_cqe cqe;
    struct io_uring_sqe *sqe = ur_probe_prepare(probe, opcode, probe->sender);
    if (!sqe)
        return (struct verdict){-EAGAIN, "submission"};
    if (opcode == IORING_OP_SEND_ZC)
        fill_send(probe, sqe);
    else
        fill_sendmsg(probe, sqe);
    sqe->ioprio = report ? IORING_SEND_ZC_REPORT_USAGE : 0;
    int code = ur_probe_outcome(probe, &cqe);
    if (code < 0)
        return (struct verdict){code, ""};
    if (code != UR_PROBE_ZC_BYTES || !(cqe.flags & IORING_CQE_F_MORE))
        return (struct verdict){UDPRING_ZC_BROKEN, "no notification was announced, or only a part was sent"};
    bool whole = arrived_whole(probe);
    code = ur_probe_await(probe, probe->serial, &cqe);
    if (code || !(cqe.flags & IORING_CQE_F_NOTIF))
        return (struct verdict){UDPRING_ZC_BROKEN, "the notification did not come within 1 s"};
    if (!whole)
        return (struct verdict){UDPRING_ZC_BROKEN, "the received bytes differ from the sent ones"};
    if (!report)
        return (struct verdict){UDPRING_ZC_COPIES, "works. This kernel does not report whether it copies (Linux 6.2 does)"};
    if ((uint32_t)cqe.res & IORING_NOTIF_USAGE_ZC_COPIED)
        return (struct verdict){UDPRING_ZC_COPIES, "works, with a copy, as always on loopback"};
    return (struct verdict){UDPRING_ZC_TRUE, "works without a copy"};
}

static int try_zero_copy(struct probe *probe, enum udpring_feature which, enum io_uring_op opcode, const char *name)
{
    if (!probe->to.sin_family) {
        ur_probe_fails(probe, which, -ENETDOWN, "not tried, because loopback is down");
        return probe->results[which].code = UDPRING_ZC_UNSUPPORTED;
    }
    struct verdict verdict = send_once(probe, opcode, true);
    if (verdict.code == -EINVAL)
        verdict = send_once(probe, opcode, false);
    if (verdict.code < 0) {
        ur_probe_fails(probe, which, verdict.code, name);
        verdict.code = UDPRING_ZC_UNSUPPORTED;
    } else if (verdict.code == UDPRING_ZC_BROKEN) {
        ur_fail(&probe->results[which].reason, 0, "%s: %s", name, verdict.seen);
    } else {
        ur_probe_works(probe, which, verdict.seen);
    }
    return probe->results[which].code = verdict.code;
}

int ur_probe_send_zc(struct probe *probe)
{
    return try_zero_copy(probe, UDPRING_FEATURE_SEND_ZC, IORING_OP_SEND_ZC, "IORING_OP_SEND_ZC");
}

int ur_probe_sendmsg_zc(struct probe *probe)
{
    return try_zero_copy(probe, UDPRING_FEATURE_SENDMSG_ZC, IORING_OP_SENDMSG_ZC, "IORING_OP_SENDMSG_ZC of a train");
}
