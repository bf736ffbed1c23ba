/* Finds the features of this host's io_uring by trying them. Version numbers mislead (backports, sandboxes), and
 * IORING_REGISTER_PROBE reports operations but not their flags. Each feature is tried once on sockets and pipes of the probe.
 *
 * On a broken kernel an operation of the probe may outlast its wait. So all memory that it may access is in `struct probe`,
 * which is freed only if the ring could be drained. */
#include "probe.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "graveyard.h"

static const char *const names[] = {
#define NAME(symbol, name) [UDPRING_FEATURE_##symbol] = name,
    UDPRING_FEATURES(NAME)
};

const char *udpring_feature_name(int32_t which)
{
    return which >= 0 && which < UDPRING_FEATURE_COUNT ? names[which] : NULL;
}

static void close_pair(struct probe *probe)
{
    if (probe->receiver >= 0)
        close(probe->receiver);
    if (probe->sender >= 0)
        close(probe->sender);
    probe->receiver = probe->sender = -1;
}

/* Opens a pair of UDP sockets on loopback, or of Unix datagram sockets if loopback is down (a new network namespace). */
static int open_pair(struct probe *probe)
{
    socklen_t length = sizeof(probe->to);
    char seen[UR_PROBE_BYTES];
    struct pollfd arrived = {.events = POLLIN};
    close_pair(probe);
    probe->to = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    probe->receiver = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    probe->sender = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    arrived.fd = probe->receiver;
    if (probe->receiver >= 0 && probe->sender >= 0 && !bind(probe->receiver, (struct sockaddr *)&probe->to, length) &&
        !getsockname(probe->receiver, (struct sockaddr *)&probe->to, &length) && ur_probe_send_greeting(probe) &&
        poll(&arrived, 1, 1000) == 1 && recv(probe->receiver, seen, sizeof(seen), MSG_DONTWAIT) == (ssize_t)sizeof(seen))
        return 0;
    close_pair(probe);
    int both[2];
    probe->to.sin_family = 0;
    if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, both))
        return -errno;
    probe->receiver = both[0];
    probe->sender = both[1];
    return 0;
}

static void probe_ring(struct probe *probe)
{
    struct udpring_feature_result *ring = &probe->results[UDPRING_FEATURE_RING];
    ring->works = 1;
    ur_fail(&ring->reason, 0, "set-up flags 0x%x, features 0x%x%s", probe->ring.setup_flags, probe->ring.features,
            probe->ring.iowq_error ? ", the number of kernel workers cannot be bounded" : "");
    if (probe->ring.setup_flags & IORING_SETUP_DEFER_TASKRUN)
        ur_probe_works(probe, UDPRING_FEATURE_DEFER_TASKRUN, "SINGLE_ISSUER and DEFER_TASKRUN are in use");
    else
        ur_probe_fails(probe, UDPRING_FEATURE_DEFER_TASKRUN, -EINVAL, "IORING_SETUP_DEFER_TASKRUN (Linux 6.1)");
}

/* Runs the probe with the given tries. The first one tests the feature `first`, the next one the following feature. */
static void run(struct udpring_feature_result *results, int (*const *tries)(struct probe *), size_t count,
                enum udpring_feature first)
{
    const struct ur_ring_options options = {.entries = 32};
    struct udpring_reason why = {""};
    memset(results, 0, UDPRING_FEATURE_COUNT * sizeof(*results));
    struct probe *probe = calloc(1, sizeof(*probe));
    int code = probe ? ur_ring_open(&probe->ring, &options, &why) : ur_fail(&why, -ENOMEM, "no memory");
    if (code) {
        for (int i = 0; i < UDPRING_FEATURE_COUNT; i++) {
            bool zero_copy = i == UDPRING_FEATURE_SEND_ZC || i == UDPRING_FEATURE_SENDMSG_ZC;
            results[i].code = zero_copy ? UDPRING_ZC_UNSUPPORTED : code;
            results[i].reason = why;
        }
        free(probe);
        return;
    }
    probe->results = results;
    probe->receiver = probe->sender = -1;
    probe_ring(probe);
    for (size_t i = 0; i < count; i++) {
        /* Use a new pair each time, so that a failed try leaves no datagram for the next. */
        code = open_pair(probe);
        if (code)
            ur_probe_fails(probe, (enum udpring_feature)(first + i), code, "a pair of sockets");
        else
            tries[i](probe);
    }
    close_pair(probe);
    int left = ur_ring_close(&probe->ring);
    ur_bufring_close(&probe->buffers, &probe->ring);
    if (left)
        ur_graveyard_leak(probe, sizeof(*probe));
    else
        free(probe);
}

void udpring_uring_probe(struct udpring_feature_result *results)
{
    static int (*const tries[])(struct probe *) = {
        ur_probe_timeout, ur_probe_recvmsg, ur_probe_sendmsg, ur_probe_buffer_ring, ur_probe_recvmsg_multishot,
        ur_probe_read_multishot, ur_probe_cancel_any, ur_probe_msg_ring, ur_probe_nop_inject, ur_probe_disabled,
        ur_probe_attach, ur_probe_iowq_workers, ur_probe_sq_poll,
        ur_probe_big_sqe, ur_probe_big_cqe, ur_probe_mixed_cqe, ur_probe_napi, ur_probe_resize, ur_probe_send_zc,
        ur_probe_sendmsg_zc,
    };
    run(results, tries, UR_ARRAY_LENGTH(tries), UDPRING_FEATURE_TIMEOUT);
}

static pthread_once_t zero_copy_once = PTHREAD_ONCE_INIT;
static struct udpring_feature_result zero_copy;

static void probe_zero_copy(void)
{
    static int (*const tries[])(struct probe *) = {ur_probe_sendmsg_zc};
    struct udpring_feature_result results[UDPRING_FEATURE_COUNT];
    run(results, tries, UR_ARRAY_LENGTH(tries), UDPRING_FEATURE_SENDMSG_ZC);
    zero_copy = results[UDPRING_FEATURE_SENDMSG_ZC];
}

int32_t udpring_zero_copy(struct udpring_reason *why)
{
    pthread_once(&zero_copy_once, probe_zero_copy);
    if (why)
        *why = zero_copy.reason;
    return zero_copy.code;
}
