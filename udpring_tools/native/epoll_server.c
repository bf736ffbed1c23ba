/* A server of `udpring bench uring` without Python: one epoll(7) loop with recv(2) and send(2). It shows how much of the
 * work is the kernel's: no server that waits for readiness does less of its own. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "abi.h"

enum { EVENTS_MAX = 128 };

static int watch(int poller, int fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    return epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static int admit(int poller, int listening)
{
    int one = 1;
    int fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return -errno;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return watch(poller, fd);
}

/* Waits for room where there is none: the others wait too, but the bench's clients read at once. */
static int send_all(int fd, const uint8_t *data, size_t size)
{
    while (size) {
        ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN)
            return -errno;
        if (sent < 0)
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
        else
            data += sent, size -= (size_t)sent;
    }
    return 0;
}

static void serve_one(int fd, uint8_t *room, size_t size, int32_t echo)
{
    ssize_t got = recv(fd, room, size, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0 || (echo && send_all(fd, room, (size_t)got)))
        close(fd); /* epoll forgets it */
}

int32_t udpring_bench_epoll(int32_t listening, uint32_t room, int32_t echo)
{
    struct epoll_event events[EVENTS_MAX];
    int poller = epoll_create1(EPOLL_CLOEXEC);
    uint8_t *data = malloc(room);
    int code = poller < 0 ? -errno : data ? watch(poller, listening) : -ENOMEM;
    while (!code) {
        int ready = epoll_wait(poller, events, EVENTS_MAX, -1);
        if (ready < 0 && errno != EINTR)
            code = -errno;
        for (int i = 0; i < ready && !code; i++)
            if (events[i].data.fd == listening)
                code = admit(poller, listening);
            else
                serve_one(events[i].data.fd, data, room, echo);
    }
    free(data);
    if (poller >= 0)
        close(poller);
    return code;
}
