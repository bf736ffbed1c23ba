/* The descriptor of the owned ring for event loops.
 * The ring's own descriptor does not suffice. With DEFER_TASKRUN its poll wakes nobody, because completions appear only when the
 * owner enters the kernel. A registered eventfd is signalled for completions and for deferred work. */
#include <sys/eventfd.h>
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
    self->eventfd = fd;
    /* The kernel signals only what happens from now on. */
    if (ur_cq_ready(&self->ring) || ur_work_pending(&self->ring))
        udpring_ring_rouse(self);
    return fd;
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
        (void)length;   /* EAGAIN: not signalled */
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
