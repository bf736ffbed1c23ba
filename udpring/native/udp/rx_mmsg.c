/* Tier mmsg: recvmmsg(2) and ppoll(2), for hosts that deny io_uring.
 *
 * 1. wait: ppoll over the sockets that have a free slot and over the watched descriptors.
 * 2. harvest: recvmmsg into as many slots as there is room for. The sockets take turns.
 * ppoll rather than epoll: a descriptor may be watched twice (a UDP socket for POLLOUT while it also receives), the timeout is
 * in nanoseconds on every kernel, and with at most 18 descriptors it costs no more. */
#include "../base.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rx_vector.h"

#define SHORT_PAUSE_NS 1000000
#define UNWATCHED_MOST 10000u   /* times in a row, each after a pause */

struct mmsg_socket {
    struct udp_rx_vector vector;
    bool readable;     /* ppoll reported it, or the last recvmmsg was full */
    bool error;        /* POLLERR */
    bool starved;      /* this starvation is already counted */
    bool polled;       /* in `epoll` */
};

struct mmsg_rx {
    struct udp_rx rx;
    struct mmsg_socket *socket;    /* [sockets] */
    uint32_t turn;                 /* the socket to read first */
    struct { int fd; uint32_t events; } watch[UDP_RX_WATCHES];
    uint32_t watching;             /* bit mask of the active tokens */
    uint32_t unwatched;            /* times in a row that the epoll set had no memory for a socket */
    bool has_epoll;                /* false also when open was not called */
    int epoll;                     /* for callers that wait in an event loop */
};

static struct mmsg_rx *self(struct udp_rx *rx)
{
    return (struct mmsg_rx *)rx;
}

static void top_up(struct mmsg_rx *mmsg, struct mmsg_socket *socket)
{
    if (udp_rx_vector_fill(&mmsg->rx, &socket->vector, UDP_RX_VECTOR)) {
        socket->starved = false;
    } else if (!socket->starved) {
        socket->starved = true;
        mmsg->rx.stats.starved++;
    }
}

static int mmsg_open(struct udp_rx *rx, struct udpring_reason *why)
{
    struct mmsg_rx *mmsg = self(rx);
    mmsg->socket = calloc(rx->sockets, sizeof(*mmsg->socket));
    if (!mmsg->socket)
        return ur_fail(why, -ENOMEM, "no memory for a receive ring");
    for (uint32_t i = 0; i < rx->sockets; i++) {
        if (udp_rx_vector_open(&mmsg->socket[i].vector, i * rx->per_socket, rx->per_socket))
            return ur_fail(why, -ENOMEM, "no memory for a receive ring");
    }
    return 0;
}

static bool mmsg_close(struct udp_rx *rx)
{
    struct mmsg_rx *mmsg = self(rx);
    for (uint32_t i = 0; mmsg->socket && i < rx->sockets; i++)
        udp_rx_vector_close(&mmsg->socket[i].vector);
    free(mmsg->socket);
    if (mmsg->has_epoll)
        close(mmsg->epoll);
    return true;
}

/* Evaluates the poll result of one of our sockets. */
static void note_socket(struct mmsg_rx *mmsg, uint32_t index, short events)
{
    struct mmsg_socket *socket = &mmsg->socket[index];
    if (events & POLLNVAL)
        (void)udp_rx_fail(&mmsg->rx, EBADF);
    else if (events & (POLLHUP | POLLRDHUP))
        (void)udp_rx_fail(&mmsg->rx, ESHUTDOWN);
    socket->readable |= (events & (POLLIN | POLLERR)) != 0;
    socket->error = (events & POLLERR) != 0;
}

/* A datagram that could not be received keeps the socket readable. Without a pause the poll would return at once,
 * repeatedly. */
static void pause_for_memory(struct udp_rx *rx)
{
    struct timespec pause = {.tv_nsec = SHORT_PAUSE_NS};
    nanosleep(&pause, NULL);
    rx->short_of_memory = false;
}

static int mmsg_wait(struct udp_rx *rx, int64_t timeout_ns)
{
    struct mmsg_rx *mmsg = self(rx);
    struct pollfd polled[UDP_RX_SOCKETS_MAX + UDP_RX_WATCHES];
    uint8_t tokens[UDP_RX_WATCHES];
    nfds_t count = rx->sockets;
    if (rx->watched)
        timeout_ns = 0;   /* tokens not fetched yet: do not wait */
    if (ur_unlikely(rx->short_of_memory))
        pause_for_memory(rx);
    for (uint32_t i = 0; i < rx->sockets; i++) {
        struct mmsg_socket *socket = &mmsg->socket[i];
        top_up(mmsg, socket);
        if (socket->readable && socket->vector.prepared)
            timeout_ns = 0;
        polled[i] = (struct pollfd){.fd = socket->vector.prepared ? rx->fd[i] : -1, .events = POLLIN | POLLRDHUP};
    }
    for (uint32_t left = mmsg->watching; left; left &= left - 1) {
        uint32_t token = (uint32_t)__builtin_ctz(left);
        tokens[count - rx->sockets] = (uint8_t)token;
        polled[count++] = (struct pollfd){.fd = mmsg->watch[token].fd, .events = (short)mmsg->watch[token].events};
    }
    struct timespec limit = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    int ready = ppoll(polled, count, timeout_ns < 0 ? NULL : &limit, NULL);
    if (ready < 0)
        return -errno;
    bool something = ready > 0 || rx->watched;
    for (uint32_t i = 0; i < rx->sockets; i++) {
        note_socket(mmsg, i, polled[i].revents);
        something |= mmsg->socket[i].readable && mmsg->socket[i].vector.prepared;
    }
    for (nfds_t i = rx->sockets; i < count; i++) {
        if (!polled[i].revents)
            continue;
        uint32_t bit = 1u << tokens[i - rx->sockets];
        rx->watched |= bit;
        mmsg->watching &= ~bit;
    }
    if (rx->fatal)
        return rx->fatal;
    return something ? 0 : -ETIME;
}

/* One recvmmsg. Returns how many datagrams were received. 0 ends this socket's turn. */
static unsigned receive(struct mmsg_rx *mmsg, uint32_t index, struct udpring_packet *packets, unsigned max)
{
    struct mmsg_socket *socket = &mmsg->socket[index];
    struct udp_rx *rx = &mmsg->rx;
    top_up(mmsg, socket);
    unsigned room = max < socket->vector.prepared ? max : socket->vector.prepared;
    if (!room)
        return 0;
    int got = -1;
    for (int errors = 0; errors < UDP_RX_ERRORS_A_PASS; errors++) {
        got = udp_rx_vector_receive(rx, &socket->vector, rx->fd[index], index, &rx->drops[index], packets, room);
        if (got >= 0 || got == -EAGAIN || udp_rx_fail(rx, -got) != UDP_RX_ICMP)
            break;
        udp_rx_drain_reported(rx, rx->fd[index]);
        socket->error = false;   /* recvmmsg returned and cleared the pending error */
    }
    if (got < 0) {
        rx->short_of_memory = got == -ENOMEM || got == -ENOBUFS;
        if (socket->error)
            rx->stats.icmp_errors += udp_rx_drain_errors(rx->fd[index]);
        socket->error = socket->readable = false;
        return 0;
    }
    socket->readable = (unsigned)got == room;
    return (unsigned)got;
}

static void mmsg_notify(struct udp_rx *rx)
{
    for (uint32_t i = 0; i < rx->sockets; i++)
        self(rx)->socket[i].readable = true;
}

static unsigned mmsg_harvest(struct udp_rx *rx, struct udpring_packet *packets, unsigned max)
{
    struct mmsg_rx *mmsg = self(rx);
    unsigned count = 0;
    for (uint32_t n = 0; n < rx->sockets; n++) {
        uint32_t index = (mmsg->turn + n) % rx->sockets;
        while (count < max && mmsg->socket[index].readable) {
            unsigned got = receive(mmsg, index, packets + count, max - count);
            if (!got)
                break;
            count += got;
        }
    }
    mmsg->turn = (mmsg->turn + 1) % rx->sockets;
    return count;
}

static void mmsg_release(struct udp_rx *rx, uint32_t slot)
{
    udp_rx_vector_give(&self(rx)->socket[slot >= rx->per_socket].vector, slot);
}

/* Level-triggered on the sockets themselves. A socket without a free slot is removed, because it may stay readable for long. */
static int mmsg_pollable(struct udp_rx *rx, int event)
{
    struct mmsg_rx *mmsg = self(rx);
    if (!mmsg->has_epoll) {
        mmsg->epoll = epoll_create1(EPOLL_CLOEXEC);
        mmsg->has_epoll = mmsg->epoll >= 0;
    }
    struct epoll_event interest = {.events = EPOLLIN};
    if (!mmsg->has_epoll || epoll_ctl(mmsg->epoll, EPOLL_CTL_ADD, event, &interest))
        return -errno;
    return mmsg->epoll;
}

static int poll_socket(const struct mmsg_rx *mmsg, int fd, bool add)
{
    struct epoll_event interest = {.events = EPOLLIN | EPOLLRDHUP};
    return epoll_ctl(mmsg->epoll, add ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, fd, &interest) && errno != EEXIST ? -errno : 0;
}

static bool mmsg_prepare_poll(struct udp_rx *rx)
{
    struct mmsg_rx *mmsg = self(rx);
    bool hungry = false, failed = false;
    for (uint32_t i = 0; i < rx->sockets; i++) {
        struct mmsg_socket *socket = &mmsg->socket[i];
        top_up(mmsg, socket);
        bool ready = socket->vector.prepared > 0;
        hungry |= !ready;
        if (ready == socket->polled)
            continue;
        int code = poll_socket(mmsg, rx->fd[i], ready);
        if (ur_unlikely((code == -ENOMEM || code == -ENOSPC) && mmsg->unwatched < UNWATCHED_MOST)) {
            rx->short_of_memory = failed = true;   /* the next wait pauses first */
            continue;
        }
        if (code)
            rx->fatal = code == -ENOENT ? -EBADF : code;   /* the kernel removed a closed socket from the epoll set */
        socket->polled = ready;
    }
    mmsg->unwatched = ur_unlikely(failed) ? mmsg->unwatched + 1 : 0;
    return hungry;
}

/* The epoll descriptor contains the sockets themselves. Until one can be added to it, the caller comes again to try. */
static bool mmsg_pending(const struct udp_rx *rx)
{
    return ((const struct mmsg_rx *)rx)->unwatched > 0;
}

static int mmsg_watch(struct udp_rx *rx, int fd, uint32_t events, uint32_t token)
{
    struct mmsg_rx *mmsg = self(rx);
    if (mmsg->watching & 1u << token)
        return -EBUSY;
    mmsg->watch[token].fd = fd;
    mmsg->watch[token].events = events;
    mmsg->watching |= 1u << token;
    return 0;
}

const struct udp_rx_tier udp_rx_mmsg = {
    .id = UDPRING_TIER_MMSG,
    .bytes = sizeof(struct mmsg_rx),
    .header_bytes = sizeof(struct udp_rx_slot_header),
    .open = mmsg_open,
    .close = mmsg_close,
    .wait = mmsg_wait,
    .notify = mmsg_notify,
    .harvest = mmsg_harvest,
    .release = mmsg_release,
    .watch = mmsg_watch,
    .pollable = mmsg_pollable,
    .prepare_poll = mmsg_prepare_poll,
    .pending = mmsg_pending,
};
