/* The clients of `udpring bench uring`: they cost little, so that the server is what is measured. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "abi.h"

enum { EVENTS_MAX = 64, WAIT_MS = 10000 };

struct client {
    int64_t asked; /* ns, when the request was sent */
    uint32_t missing;
};

static int64_t now_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

/* A request fits into an empty socket buffer, so a short write is an error. */
static int ask(struct client *client, int fd, const uint8_t *request, uint32_t size, uint32_t reply)
{
    client->asked = now_ns();
    client->missing = reply;
    ssize_t sent = send(fd, request, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0)
        return -errno;
    return sent == (ssize_t)size ? 0 : -EMSGSIZE;
}

/* Takes what came. Returns 1 when the reply is complete. */
static int answered(struct client *client, int fd)
{
    uint8_t room[16384];
    ssize_t got = recv(fd, room, sizeof(room), MSG_DONTWAIT);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (got == 0)
        return -ECONNRESET;
    if ((uint64_t)got > client->missing)
        return -EPROTO;
    client->missing -= (uint32_t)got;
    return client->missing == 0;
}

static int64_t exchange(int poller, struct client *clients, const int32_t *fds, uint32_t count, const uint8_t *request,
                        uint32_t size, uint32_t reply, int64_t end, uint32_t *times, uint32_t room)
{
    struct epoll_event events[EVENTS_MAX];
    int64_t done = 0;
    uint32_t asking = count;
    while (asking) {
        int ready = epoll_wait(poller, events, EVENTS_MAX, WAIT_MS);
        if (ready <= 0)
            return ready ? -errno : -ETIMEDOUT;
        for (int i = 0; i < ready; i++) {
            uint32_t n = events[i].data.u32;
            int code = answered(&clients[n], fds[n]);
            if (code < 0)
                return code;
            if (!code)
                continue;
            int64_t at = now_ns(), took = at - clients[n].asked;
            times[done++ % room] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
            if (at >= end)
                asking--;
            else if ((code = ask(&clients[n], fds[n], request, size, reply)))
                return code;
        }
    }
    return done;
}

int64_t udpring_bench_exchange(const int32_t *fds, uint32_t count, const uint8_t *request, uint32_t size, uint32_t reply,
                               int64_t ns, uint32_t *times, uint32_t room)
{
    if (!count || !size || !reply || !room)
        return -EINVAL;
    int poller = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0)
        return -errno;
    struct client *clients = calloc(count, sizeof(*clients));
    int64_t code = clients ? 0 : -ENOMEM;
    int64_t end = now_ns() + ns;
    for (uint32_t n = 0; n < count && !code; n++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = n};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, fds[n], &event))
            code = -errno;
        else
            code = ask(&clients[n], fds[n], request, size, reply);
    }
    if (!code)
        code = exchange(poller, clients, fds, count, request, size, reply, end, times, room);
    free(clients);
    close(poller);
    return code;
}

int64_t udpring_bench_pour(const int32_t *fds, uint32_t count, const uint8_t *data, uint32_t size, int64_t ns)
{
    struct pollfd polled[EVENTS_MAX];
    if (!count || count > EVENTS_MAX || !size)
        return -EINVAL;
    for (uint32_t n = 0; n < count; n++)
        polled[n] = (struct pollfd){.fd = fds[n], .events = POLLOUT};
    int64_t end = now_ns() + ns, sent = 0;
    while (now_ns() < end) {
        int ready = poll(polled, count, WAIT_MS);
        if (ready <= 0)
            return ready ? -errno : -ETIMEDOUT;
        for (uint32_t n = 0; n < count; n++) {
            if (!polled[n].revents)
                continue;
            ssize_t taken = send(fds[n], data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (taken < 0 && errno != EAGAIN && errno != EINTR)
                return -errno;
            sent += taken > 0 ? taken : 0;
        }
    }
    return sent;
}
