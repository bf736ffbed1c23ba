/* The descriptor of the owned ring for event loops.
 * The ring's own descriptor does not suffice. With DEFER_TASKRUN its poll wakes nobody, because completions appear only when the
 * owner enters the kernel. A registered eventfd is signalled for completions and for deferred work.
 *
 * An eventfd that an operation polls needs care. Its write(2) queues deferred work of the ring, and must not signal a second
 * eventfd from inside. So the kernel puts that signal off, and marks the registration to do so once only. Linux 6.12 to 6.18
 * never remove the mark, so the next such signal is dropped. A new registration has no mark: `nests` rings register again after
 * each wake-up. The first signal of a registration always arrives. */
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "owned.h"

int32_t udpring_ring_fd(const struct udpring_ring *self)
{
    return self->ring.fd >= 0 ? self->ring.fd : -EBADF;
}

int32_t udpring_ring_fileno(struct udpring_ring *self)
{
    if (self->eventfd >= 0)
        return self->eventfd;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    int code = ur_ring_register(&self->ring, IORING_REGISTER_EVENTFD, &fd, 1);
    if (code < 0) {
        close(fd);
        return code;
    }
    struct stat file;
    self->eventfd = fd;
    self->anonymous = fstat(fd, &file) ? 0 : file.st_dev;
    self->nests = self->busy || self->silent;   /* the files of these operations were not looked at */
    /* The kernel signals only what happens from now on. */
    if (ur_cq_ready(&self->ring) || ur_work_pending(&self->ring))
        udpring_ring_rouse(self);
    return fd;
}

void ur_notice_file(struct udpring_ring *self, const struct ur_request *request)
{
    struct stat file;
    if (self->nests || !(self->ring.setup_flags & IORING_SETUP_DEFER_TASKRUN))
        return;
    /* Another epoll instance counts too: it may contain an eventfd. A registered file cannot be looked at. */
    self->nests = request->flags & IOSQE_FIXED_FILE || (!fstat(request->fd, &file) && file.st_dev == self->anonymous);
}

static void register_again(struct udpring_ring *self)
{
    ur_ring_register(&self->ring, IORING_UNREGISTER_EVENTFD, NULL, 0);
    if (ur_ring_register(&self->ring, IORING_REGISTER_EVENTFD, &self->eventfd, 1) < 0)
        udpring_ring_rouse(self);   /* no memory: the next call tries again */
}

int32_t udpring_ring_eventfd(struct udpring_ring *self, int32_t fd)
{
    if (self->eventfd >= 0)
        return -EBUSY;
    if (fd < 0)
        return ur_ring_register(&self->ring, IORING_UNREGISTER_EVENTFD, NULL, 0);
    return ur_ring_register(&self->ring, IORING_REGISTER_EVENTFD, &fd, 1);
}

int32_t udpring_ring_attend(struct udpring_ring *self)
{
    int code = ur_ring_usable(&self->ring);
    if (code)
        return code == -EBADFD ? 0 : code;
    code = ur_run_deferred(&self->ring);
    if (self->eventfd >= 0) {
        /* After the work above, whose completions signal too. */
        uint64_t signals;
        ssize_t length = read(self->eventfd, &signals, sizeof(signals));
        if (length > 0 && self->nests)
            register_again(self);
        if (ur_work_pending(&self->ring))
            udpring_ring_rouse(self);   /* new work, or a backlog: its signal may just have been read */
    }
    return code;
}

void udpring_ring_rouse(struct udpring_ring *self)
{
    uint64_t one = 1;
    ssize_t length = self->eventfd >= 0 ? write(self->eventfd, &one, sizeof(one)) : 0;
    (void)length;   /* EAGAIN: the counter is at its limit, and so readable */
}
