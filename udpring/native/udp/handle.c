#include "handle.h"

#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../uring/thread.h"

int udp_handle_claim(struct udp_handle_owner *owner)
{
    int code = ur_fork_watch();
    if (code)
        return code;
    *owner = (struct udp_handle_owner){
        .thread = ur_thread_number(), .tid = (int32_t)syscall(SYS_gettid), .forks = ur_fork_count()};
    return 0;
}

int udp_handle_check(const struct udp_handle_owner *owner)
{
    return owner->thread == ur_thread_number() && owner->forks == ur_fork_count() ? 0 : -EXDEV;
}

int udp_handle_check_close(const struct udp_handle_owner *owner)
{
    if (owner->forks != ur_fork_count() || owner->thread == ur_thread_number())
        return 0;
    return syscall(SYS_tgkill, getpid(), owner->tid, 0) && errno == ESRCH ? 0 : -EXDEV;
}

int udp_handle_claim_socket(struct udp_handle_socket *socket, int fd)
{
    struct stat status;
    if (fstat(fd, &status))
        return -errno;
    *socket = (struct udp_handle_socket){.fd = fd, .device = status.st_dev, .inode = status.st_ino};
    return 0;
}

int udp_handle_check_socket(const struct udp_handle_socket *socket)
{
    struct stat status;
    if (fstat(socket->fd, &status) || status.st_ino != socket->inode || status.st_dev != socket->device)
        return -EBADF;
    return 0;
}

int udp_handle_check_reading(const struct udp_handle_socket *socket)
{
    struct pollfd polled = {.fd = socket->fd, .events = POLLRDHUP};
    return poll(&polled, 1, 0) == 1 && polled.revents & (POLLRDHUP | POLLHUP) ? -ESHUTDOWN : 0;
}
