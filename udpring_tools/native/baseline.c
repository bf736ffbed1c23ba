/* The baseline of `udpring bench udp`, used nowhere else: sendmmsg(2) and recvmmsg(2) as a C program calls them, one message a
 * datagram, without UDP_SEGMENT and UDP_GRO.
 *
 * 1. udpring_baseline_open lays out the headers of a burst once, for sending and for receiving.
 * 2. udpring_baseline_run sends the whole burst, then receives it, in as few calls as the kernel allows.
 */
#include "base.h"

#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "abi.h"
#include "udp/abi.h"

#define BURST_MAX 1024 /* UIO_MAXIOV, the limit of one call */

/* Owner: the caller of udpring_baseline_open. Thread: one at a time. Freed by udpring_baseline_close. */
struct udpring_baseline {
    struct mmsghdr *out, *in; /* [burst] each */
    struct iovec *pieces;     /* [2 * burst]: of out, then of in */
    struct sockaddr_in *to;   /* [burst] */
    struct sockaddr_in *from; /* [burst] */
    uint8_t *room;            /* burst * size bytes to receive into */
    uint32_t burst, size;
};

static void lay_out(struct udpring_baseline *base, const uint8_t *data, const struct udpring_address *addresses)
{
    for (uint32_t i = 0; i < base->burst; i++) {
        base->to[i] = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(addresses[i].port)};
        memcpy(&base->to[i].sin_addr, addresses[i].ip, sizeof(base->to[i].sin_addr));
        base->pieces[i] = (struct iovec){(uint8_t *)data + (size_t)i * base->size, base->size};
        base->out[i].msg_hdr = (struct msghdr){.msg_name = &base->to[i],
                                               .msg_namelen = sizeof(base->to[i]),
                                               .msg_iov = &base->pieces[i],
                                               .msg_iovlen = 1};
        struct iovec *room = &base->pieces[base->burst + i];
        *room = (struct iovec){base->room + (size_t)i * base->size, base->size};
        base->in[i].msg_hdr = (struct msghdr){.msg_name = &base->from[i], .msg_iov = room, .msg_iovlen = 1};
    }
}

int32_t udpring_baseline_open(struct udpring_baseline **opened, const uint8_t *data, uint32_t size,
                              const void *packed, uint32_t burst)
{
    const struct udpring_address *addresses = packed;
    *opened = NULL;
    if (!burst || burst > BURST_MAX || !size || size > 65507)
        return -EINVAL;
    for (uint32_t i = 0; i < burst; i++)
        if (addresses[i].family != AF_INET)
            return -EAFNOSUPPORT;
    struct udpring_baseline *base = calloc(1, sizeof(*base));
    if (!base)
        return -ENOMEM;
    base->burst = burst;
    base->size = size;
    base->out = calloc(burst, sizeof(*base->out));
    base->in = calloc(burst, sizeof(*base->in));
    base->pieces = calloc(2 * (size_t)burst, sizeof(*base->pieces));
    base->to = calloc(burst, sizeof(*base->to));
    base->from = calloc(burst, sizeof(*base->from));
    base->room = calloc(burst, size);
    if (!base->out || !base->in || !base->pieces || !base->to || !base->from || !base->room) {
        udpring_baseline_close(base);
        return -ENOMEM;
    }
    lay_out(base, data, addresses);
    *opened = base;
    return 0;
}

void udpring_baseline_close(struct udpring_baseline *base)
{
    if (!base)
        return;
    free(base->out);
    free(base->in);
    free(base->pieces);
    free(base->to);
    free(base->from);
    free(base->room);
    free(base);
}

static int send_burst(struct udpring_baseline *base, int fd)
{
    for (uint32_t sent = 0; sent < base->burst;) {
        int taken = sendmmsg(fd, base->out + sent, base->burst - sent, 0);
        if (taken < 0 && errno != EINTR)
            return -errno;
        sent += taken > 0 ? (uint32_t)taken : 0;
    }
    return (int)base->burst;
}

/* Returns how many datagrams arrived: the whole burst, or fewer if none arrived for `wait_ms`. */
static int receive_burst(struct udpring_baseline *base, int fd, int wait_ms)
{
    uint32_t got = 0;
    while (got < base->burst) {
        for (uint32_t i = got; i < base->burst; i++)
            base->in[i].msg_hdr.msg_namelen = sizeof(base->from[i]);
        int came = recvmmsg(fd, base->in + got, base->burst - got, MSG_DONTWAIT, NULL);
        if (came >= 0) {
            got += (uint32_t)came;
            continue;
        }
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        struct pollfd readable = {.fd = fd, .events = POLLIN};
        int ready = poll(&readable, 1, wait_ms);
        if (!ready)
            break;
        if (ready < 0)
            return -errno;
    }
    return (int)got;
}

int32_t udpring_baseline_run(struct udpring_baseline *base, int32_t out, int32_t in, uint32_t wait_ms)
{
    int code = out < 0 ? (int)base->burst : send_burst(base, out);
    return code < 0 || in < 0 ? code : receive_burst(base, in, (int)wait_ms);
}
