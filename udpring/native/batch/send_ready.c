/* Sending in event loops: an epoll descriptor. It contains the eventfd by which another thread announces a close. It also
 * contains the socket while sends wait for room in its buffer, or the eventfd of zero-copy notifications while all sends wait
 * for them. */
#include "../base.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "send_push.h"

/* Keeps the descriptor readable, so that the loop calls again: an eventfd is always writable. A change of a watch needs no
 * memory. */
static void call_again(struct udpring_send *send, bool again)
{
    struct epoll_event interest = {.events = again ? EPOLLIN | EPOLLOUT : EPOLLIN};
    if (send->epoll >= 0 && again != send->calls_again && !epoll_ctl(send->epoll, EPOLL_CTL_MOD, send->wake, &interest))
        send->calls_again = again;
}

int send_wake_fd(struct udpring_send *send)
{
    int wake = atomic_load(&send->wake);
    if (wake >= 0)
        return wake;
    wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake < 0)
        return -errno;
    atomic_store(&send->wake, wake);
    if (atomic_load(&send->woken))
        (void)eventfd_write(wake, 1);
    return wake;
}

void send_prepare_poll(struct udpring_send *send)
{
    if (udp_handle_check(&send->owner))
        return;   /* a forked child shares the epoll descriptor with its parent */
    struct epoll_event interest = {.events = EPOLLOUT};
    int wanted = send->tx ? udp_tx_parked(send->tx) : -1;
    if (wanted < 0 && send->unfinished && send->tx) {
        wanted = udp_tx_awaits_notice(send->tx);
        if (wanted >= 0)
            interest.events = EPOLLIN;
        else
            wanted = send->socket.fd;   /* the kernel was short of memory: try again */
    }
    if (wanted == send->polled) {
        call_again(send, false);
        return;
    }
    if (send->polled >= 0)
        (void)epoll_ctl(send->epoll, EPOLL_CTL_DEL, send->polled, NULL);   /* the kernel already removed a closed socket */
    bool failed = wanted >= 0 && epoll_ctl(send->epoll, EPOLL_CTL_ADD, wanted, &interest) && errno != EEXIST;
    send->polled = failed ? -1 : wanted;
    call_again(send, failed);   /* it was closed, or the kernel has no memory: the next call reports it, or tries again */
}

int32_t udpring_send_fileno(struct udpring_send *send)
{
    if (send->epoll >= 0)
        return send->epoll;
    int code = send_check(send);
    if (code)
        return code;
    int wake = send_wake_fd(send);
    if (wake < 0)
        return wake;
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0)
        return -errno;
    struct epoll_event interest = {.events = EPOLLIN};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, wake, &interest)) {
        code = -errno;
        close(epoll);
        return code;
    }
    send->epoll = epoll;
    send_prepare_poll(send);
    return epoll;
}
