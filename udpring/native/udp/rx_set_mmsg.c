/* Tier mmsg for many sockets: an epoll instance reports the sockets (rx_set.h).
 *
 * 1. wait: ppoll over that instance and the watched descriptors, with a timeout in nanoseconds on every kernel.
 * 2. harvest: fetches what epoll reports, then receives. The reports are edges, so a socket is not polled again while it has
 *    datagrams.
 * A socket may be closed while a duplicate of it stays open. The instance then reports it still, with a serial number that no
 * member has. */
#include "../base.h"

#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "rx_set.h"

#define EVENTS 128
#define SHORT_PAUSE_NS 1000000

struct mmsg_set {
    struct udp_rx rx;
    struct udp_rx_set set;
    int epoll;                     /* the sockets. -1: open failed */
    int outer;                     /* `epoll` and the caller's eventfd, for callers that wait in an event loop. -1: none */
    bool look;                     /* `epoll` may have reports */
    struct { int fd; uint32_t events; } watch[UDP_RX_WATCHES];
    uint32_t watching;             /* bit mask of the active tokens */
};

static struct mmsg_set *self(const struct udp_rx *rx)
{
    return (struct mmsg_set *)(uintptr_t)rx;
}

static int watch_member(struct udp_rx_set *set, uint32_t index)
{
    const struct udp_rx_member *member = &set->member[index];
    if (set->rx->passive)
        return 0;
    struct epoll_event interest = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET,
                                   .data.u64 = (uint64_t)member->serial << 32 | index};
    return epoll_ctl(self(set->rx)->epoll, EPOLL_CTL_ADD, member->socket.fd, &interest) ? -errno : 0;
}

static bool unwatch_member(struct udp_rx_set *set, uint32_t index)
{
    const struct udp_handle_socket *socket = &set->member[index].socket;
    if (!set->rx->passive && !udp_handle_check_socket(socket))   /* else its number may be another socket's */
        (void)epoll_ctl(self(set->rx)->epoll, EPOLL_CTL_DEL, socket->fd, NULL);
    return true;
}

static int set_open(struct udp_rx *rx, struct udpring_reason *why)
{
    struct mmsg_set *mmsg = self(rx);
    mmsg->outer = -1;
    mmsg->set.watch = watch_member;
    mmsg->set.unwatch = unwatch_member;
    mmsg->epoll = rx->passive ? -1 : epoll_create1(EPOLL_CLOEXEC);
    if (mmsg->epoll < 0 && !rx->passive)
        return ur_fail(why, -errno, "no epoll instance: %s", strerror(errno));
    return rx_set_open(&mmsg->set, rx, why);
}

static bool set_close(struct udp_rx *rx)
{
    struct mmsg_set *mmsg = self(rx);
    if (!mmsg->set.watch)
        return true;   /* it was not opened */
    if (mmsg->epoll >= 0)
        close(mmsg->epoll);
    if (mmsg->outer >= 0)
        close(mmsg->outer);
    if (mmsg->set.rx)
        rx_set_close(&mmsg->set);
    return true;
}

static void fetch_reports(struct mmsg_set *mmsg)
{
    struct epoll_event reports[EVENTS];
    int count = EVENTS;
    mmsg->look = false;
    for (uint32_t left = mmsg->set.capacity; count == EVENTS && left; left -= left < EVENTS ? left : EVENTS) {
        count = epoll_wait(mmsg->epoll, reports, EVENTS, 0);
        for (int i = 0; i < count; i++) {
            uint32_t index = (uint32_t)reports[i].data.u64;
            const struct udp_rx_member *member = &mmsg->set.member[index];
            if (member->state == UDP_RX_MEMBER_ACTIVE && member->serial == reports[i].data.u64 >> 32)
                rx_set_mark(&mmsg->set, index, reports[i].events);
        }
    }
}

static int set_wait(struct udp_rx *rx, int64_t timeout_ns)
{
    struct mmsg_set *mmsg = self(rx);
    struct pollfd polled[1 + UDP_RX_WATCHES] = {{.fd = mmsg->epoll, .events = POLLIN}};
    uint8_t tokens[UDP_RX_WATCHES];
    nfds_t count = 1;
    if (ur_unlikely(rx->short_of_memory)) {   /* the sockets stay readable: do not poll them again and again */
        struct timespec pause = {.tv_nsec = SHORT_PAUSE_NS};
        nanosleep(&pause, NULL);
        rx->short_of_memory = false;
    }
    if (rx->watched || rx_set_readable(&mmsg->set))
        timeout_ns = 0;
    for (uint32_t left = mmsg->watching; left; left &= left - 1) {
        uint32_t token = (uint32_t)__builtin_ctz(left);
        tokens[count - 1] = (uint8_t)token;
        polled[count++] = (struct pollfd){.fd = mmsg->watch[token].fd, .events = (short)mmsg->watch[token].events};
    }
    struct timespec limit = {timeout_ns / 1000000000, timeout_ns % 1000000000};
    int ready = ppoll(polled, count, timeout_ns < 0 ? NULL : &limit, NULL);
    if (ready < 0)
        return -errno;
    for (nfds_t i = 1; i < count; i++) {
        if (!polled[i].revents)
            continue;
        rx->watched |= 1u << tokens[i - 1];
        mmsg->watching &= ~(1u << tokens[i - 1]);
    }
    mmsg->look = polled[0].revents != 0;
    return ready || rx->watched || rx_set_readable(&mmsg->set) ? 0 : -ETIME;
}

static void set_notify(struct udp_rx *rx)
{
    self(rx)->look = true;
}

static unsigned set_harvest(struct udp_rx *rx, struct udpring_packet *packets, unsigned max)
{
    struct mmsg_set *mmsg = self(rx);
    if (mmsg->look)
        fetch_reports(mmsg);
    return rx_set_receive(&mmsg->set, packets, max);
}

static void set_release(struct udp_rx *rx, uint32_t slot)
{
    udp_rx_vector_give(&self(rx)->set.vector, slot);
}

static int set_watch(struct udp_rx *rx, int fd, uint32_t events, uint32_t token)
{
    struct mmsg_set *mmsg = self(rx);
    if (mmsg->watching & 1u << token)
        return -EBUSY;
    mmsg->watch[token].fd = fd;
    mmsg->watch[token].events = events;
    mmsg->watching |= 1u << token;
    return 0;
}

static int set_pollable(struct udp_rx *rx, int event)
{
    struct mmsg_set *mmsg = self(rx);
    struct epoll_event interest = {.events = EPOLLIN};
    int outer = epoll_create1(EPOLL_CLOEXEC);
    if (outer < 0)
        return -errno;
    if (epoll_ctl(outer, EPOLL_CTL_ADD, mmsg->epoll, &interest) || epoll_ctl(outer, EPOLL_CTL_ADD, event, &interest)) {
        int error = errno;
        close(outer);
        return -error;
    }
    mmsg->outer = outer;
    return outer;
}

static bool set_prepare_poll(struct udp_rx *rx)
{
    return rx_set_hungry(&self(rx)->set);
}

static bool set_pending(const struct udp_rx *rx)
{
    return rx_set_readable(&self(rx)->set) || self(rx)->set.ended.first != UDP_RX_NO_MEMBER;
}

const struct udp_rx_tier udp_rx_set_mmsg = {
    .id = UDPRING_TIER_MMSG,
    .bytes = sizeof(struct mmsg_set),
    .header_bytes = sizeof(struct udp_rx_slot_header),
    .open = set_open,
    .close = set_close,
    .wait = set_wait,
    .notify = set_notify,
    .harvest = set_harvest,
    .release = set_release,
    .watch = set_watch,
    .pollable = set_pollable,
    .prepare_poll = set_prepare_poll,
    .pending = set_pending,
};
