/* The core's system calls, redirected by the linker's --wrap (plane.wrap). Calls on descriptors of the model's kernel are
 * answered
 * by the model, all others by the real kernel. */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <linux/sock_diag.h>

#include "model_kernel.h"
#include "model_threads.h"
#include "model_uring.h"

#include "udp/socket.h"

#ifndef TUNGETDEVNETNS
#define TUNGETDEVNETNS _IO('T', 227)
#endif
#ifndef SOL_UDP
#define SOL_UDP 17
#endif
enum { TYPE_UDP_GRO = 104 };

#define WRAP(result, name, ...)              \
    result __real_##name(__VA_ARGS__);       \
    result __wrap_##name(__VA_ARGS__);       \
    result __wrap_##name(__VA_ARGS__)

static int fail(int error)
{
    errno = error;
    return -1;
}

static int32_t answer(int64_t result)
{
    return result < 0 ? fail((int)-result) : (int32_t)result;
}

int kernel_open(enum kernel_kind kind, int family)
{
    uint32_t number = 0;
    for (int i = 0; i < KERNEL_FDS; i++) {
        struct kernel_file *file = &kernel.file[i];
        if (file->kind == kind && file->family == family)
            number++;
        if (file->kind != KERNEL_CLOSED)
            continue;
        file->kind = kind;
        file->family = family;
        file->head = file->count = 0;
        file->event = 0;
        file->full = file->bound = file->group_program = file->vnet = false;
        file->asks_for_errors = file->shut = file->gro = file->timestamps = file->reused = false;
        file->nonblocking = file->joined = file->overrun = false;
        file->number = number;
        file->serial = ++kernel.serial;
        file->peer.family = file->port = 0;
        file->room = file->charged = file->errors = file->drops = file->mark = 0;
        file->error = 0;
        memset(file->watched, 0, sizeof(file->watched));
        return KERNEL_FD + i;
    }
    return fail(EMFILE);
}

WRAP(int, open, const char *path, int flags, ...)
{
    int error = kernel_fault_wide();
    if (error)
        return fail(error);
    if (kernel.active && !strcmp(path, "/dev/net/tun"))
        return kernel_open(KERNEL_TUN, 0);
    if (kernel.active)
        return fail(ENOENT);
    return __real_open(path, flags, 0600);
}

WRAP(int, eventfd, unsigned initial, int flags)
{
    int error = kernel_fault(false);
    if (error)
        return fail(error);
    return kernel.active ? kernel_open(KERNEL_EVENT, 0) : __real_eventfd(initial, flags);
}

WRAP(int, eventfd_write, int fd, eventfd_t value)
{
    struct kernel_file *file = kernel_file(fd);
    if (!file)
        return kernel.active ? fail(EBADF) : __real_eventfd_write(fd, value);
    file->event += value;
    return 0;
}

WRAP(int, eventfd_read, int fd, eventfd_t *value)
{
    struct kernel_file *file = kernel_file(fd);
    if (!file)
        return kernel.active ? fail(EBADF) : __real_eventfd_read(fd, value);
    if (!file->event)
        return fail(EAGAIN);
    *value = file->event;
    file->event = 0;
    return 0;
}

WRAP(int, epoll_create1, int flags)
{
    int error = kernel_fault(false);
    if (error)
        return fail(error);
    return kernel.active ? kernel_open(KERNEL_EPOLL, 0) : __real_epoll_create1(flags);
}

/* A closed file leaves the set, because its serial number is not reused. */
WRAP(int, epoll_ctl, int epoll, int operation, int fd, struct epoll_event *event)
{
    struct kernel_file *set = kernel_file(epoll), *file = kernel_file(fd);
    if (!kernel.active)
        return __real_epoll_ctl(epoll, operation, fd, event);
    int error = operation == EPOLL_CTL_MOD ? 0 : kernel_fault(false);   /* a change needs no memory */
    if (error || !set || !file)
        return fail(error ? error : EBADF);
    if (set == file)   /* the set has the number that was the socket's */
        return fail(EINVAL);
    int known = -1, free_place = -1;
    for (int i = 0; i < KERNEL_WATCHED; i++) {
        const struct kernel_file *there = kernel_file(set->watched[i].fd);
        if (there && there->serial == set->watched[i].serial)
            known = set->watched[i].fd == fd ? i : known;
        else
            free_place = i;
    }
    if (operation == EPOLL_CTL_DEL) {
        if (known < 0)
            return fail(ENOENT);
        set->watched[known].fd = 0;
        return 0;
    }
    if (operation == EPOLL_CTL_MOD) {
        if (known < 0)
            return fail(ENOENT);
        set->watched[known].events = (short)event->events;
        return 0;
    }
    if (known >= 0)
        return fail(EEXIST);
    CLAIM(free_place >= 0, "too many descriptors in an epoll set");
    set->watched[free_place].fd = fd;
    set->watched[free_place].serial = file->serial;
    set->watched[free_place].events = (short)event->events;
    return 0;
}

WRAP(int, socket, int family, int type, int protocol)
{
    if (!kernel.active)
        return __real_socket(family, type, protocol);
    int error = kernel_fault_wide();
    if (error)
        return fail(error);
    if (family == AF_NETLINK && kernel.has_netlink) {
        int fd = kernel_open(KERNEL_NETLINK, family);
        if (fd >= 0)
            kernel_file(fd)->nonblocking = type & SOCK_NONBLOCK;
        return fd;
    }
    if (family != AF_INET && family != AF_INET6 && family != AF_UNIX)
        return fail(EAFNOSUPPORT);
    bool udp = family != AF_UNIX && (type & ~(SOCK_CLOEXEC | SOCK_NONBLOCK)) == SOCK_DGRAM;
    return kernel_open(udp && protocol == IPPROTO_UDP ? KERNEL_UDP : KERNEL_OTHER, family);
}

WRAP(int, close, int fd)
{
    struct kernel_file *file = kernel_file(fd);
    if (!file) {
        CLAIM(!kernel.active || fd < KERNEL_FD, "descriptor %d is closed twice", fd);
        return __real_close(fd);
    }
    for (; file->count; file->count--, file->head = (file->head + 1) % KERNEL_QUEUE)
        free(file->queue[file->head].bytes);
    file->kind = KERNEL_CLOSED;
    return 0;
}

WRAP(ssize_t, read, int fd, void *into, size_t room)
{
    struct kernel_file *file = kernel_file(fd);
    if (!file)
        return __real_read(fd, into, room);
    int error = kernel_fault_wide();
    if (error)
        return fail(error);
    if (file->kind == KERNEL_TUN)
        return answer(kernel_tun_read(file, into, room));
    if (file->kind != KERNEL_EVENT)
        return fail(EINVAL);
    if (!file->event)
        return fail(EAGAIN);
    memcpy(into, &file->event, sizeof(file->event));
    file->event = 0;
    return sizeof(file->event);
}

WRAP(ssize_t, write, int fd, const void *from, size_t bytes)
{
    struct kernel_file *file = kernel_file(fd);
    if (!file)
        return __real_write(fd, from, bytes);
    uint64_t value;
    CLAIM(file->kind == KERNEL_EVENT && bytes == sizeof(value), "a write of %zu bytes", bytes);
    memcpy(&value, from, sizeof(value));
    file->event += value;
    return (ssize_t)bytes;
}

WRAP(ssize_t, writev, int fd, const struct iovec *parts, int count)
{
    struct kernel_file *file = kernel_file(fd);
    if (!file)
        return __real_writev(fd, parts, count);
    int error = kernel_fault_wide();
    if (error)
        return fail(error);
    if (file->kind != KERNEL_TUN || kernel.device_gone)
        return fail(EBADFD);
    struct vnet_header vnet = {0};
    CLAIM(parts[0].iov_len == (file->vnet ? sizeof(vnet) : 0), "a vnet header of %zu bytes", parts[0].iov_len);
    memcpy(&vnet, parts[0].iov_base, parts[0].iov_len);
    ssize_t bytes = 0;
    for (int i = 0; i < count; i++)
        bytes += (ssize_t)parts[i].iov_len;
    int result = kernel.tun_write(file->number, &vnet, parts + 1, count - 1);
    return result < 0 ? fail(-result) : bytes;
}

static int tun_ioctl(struct kernel_file *file, unsigned long request, void *argument)
{
    struct ifreq *interface = argument;
    switch (request) {
    case TUNSETIFF:
        file->vnet = interface->ifr_flags & IFF_VNET_HDR;
        strcpy(interface->ifr_name, "fuzz0");
        return 0;
    case TUNGETIFF:
        strcpy(interface->ifr_name, "fuzz0");
        interface->ifr_flags = (short)(IFF_TUN | IFF_NO_PI | (file->vnet ? IFF_VNET_HDR : 0));
        return 0;
    case TUNSETOFFLOAD:
        return (unsigned long)(uintptr_t)argument & ~(unsigned long)kernel.offloads ? fail(EINVAL) : 0;
    case TUNGETDEVNETNS:
        return kernel.tells_space ? kernel_open(KERNEL_NETSPACE, 0) : fail(EPERM);
    default:
        return fail(ENOTTY);
    }
}

/* Links have their index as a name. */
static int link_ioctl(unsigned long request, struct ifreq *link)
{
    if (request == SIOCGIFNAME) {
        snprintf(link->ifr_name, sizeof(link->ifr_name), "link%d", link->ifr_ifindex);
        return 0;
    }
    bool tunnel = kernel.other_tunnel && (uint32_t)atoi(link->ifr_name + 4) == kernel.other_tunnel;
    link->ifr_hwaddr.sa_family = tunnel ? ARPHRD_NONE : ARPHRD_ETHER;
    return 0;
}

WRAP(int, ioctl, int fd, unsigned long request, ...)
{
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    struct kernel_file *file = kernel_file(fd);
    if (!file)
        return kernel.active ? fail(EBADF) : __real_ioctl(fd, request, argument);
    int error = kernel_fault_wide();
    if (error)
        return fail(error);
    if (file->kind == KERNEL_TUN)
        return tun_ioctl(file, request, argument);
    if (request == SIOCOUTQ) {
        *(int *)argument = file->full ? 1 << 20 : (int)file->charged;
        return 0;
    }
    if (request == SIOCGIFINDEX) {
        ((struct ifreq *)argument)->ifr_ifindex = (int)kernel.tunnel;
        return kernel.tunnel ? 0 : fail(ENODEV);
    }
    if (request == SIOCGIFNAME || request == SIOCGIFHWADDR)
        return link_ioctl(request, argument);
    if (request != SIOCGIFMTU)
        return request == SIOCSIFMTU ? 0 : fail(ENOTTY);
    ((struct ifreq *)argument)->ifr_mtu = (int)kernel.mtu;
    return 0;
}

WRAP(void *, mmap, void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    int error = kernel_fault(false);
    if (error) {
        errno = error;
        return MAP_FAILED;
    }
    void *ring = kernel_file(fd) ? uring_map(fd, (uint64_t)offset) : kernel.map && fd < 0 ? kernel.map(bytes) : NULL;
    return ring ? ring : __real_mmap(address, bytes, protection, flags, fd, offset);
}

WRAP(int, fstat, int fd, struct stat *status)
{
    const struct kernel_file *file = kernel_file(fd);
    if (!file)
        return kernel.active ? fail(EBADF) : __real_fstat(fd, status);
    memset(status, 0, sizeof(*status));
    status->st_ino = (ino_t)file->serial;
    if (file->kind == KERNEL_NETSPACE)
        status->st_ino = kernel.tunnel ? KERNEL_SPACE : KERNEL_SPACE + 1;
    return 0;
}

WRAP(int, setsockopt, int fd, int level, int option, const void *value, socklen_t length)
{
    struct kernel_file *file = kernel_file(fd);
    if (!file)
        return kernel.active ? fail(EBADF) : __real_setsockopt(fd, level, option, value, length);
    bool off = length == sizeof(int) && !*(const int *)value;   /* never refused */
    int error = off ? 0 : kernel_fault(false);
    if (error)
        return fail(error);
    if (level == SOL_SOCKET && option == SO_ATTACH_REUSEPORT_CBPF)
        file->group_program = true;
    if (level == SOL_SOCKET && option == SO_MARK)
        file->mark = *(const uint32_t *)value;
    if (file->kind == KERNEL_NETLINK)
        file->joined = true;
    if (level == SOL_SOCKET && option == SO_TIMESTAMPNS)
        file->timestamps = *(const int *)value;
    if (level == SOL_UDP && option == TYPE_UDP_GRO)
        file->gro = *(const int *)value;
    return 0;
}

WRAP(int, getsockopt, int fd, int level, int option, void *value, socklen_t *length)
{
    struct kernel_file *file = kernel_file(fd);
    if (!file)
        return kernel.active ? fail(EBADF) : __real_getsockopt(fd, level, option, value, length);
    int error = kernel_fault_wide();
    if (error)
        return fail(error);
    int number = 0;
    if (level == SOL_SOCKET)
        number = option == SO_BINDTOIFINDEX ? (int)kernel.bound_to : option == SO_DOMAIN ? file->family : option == SO_TYPE ? SOCK_DGRAM
                 : option == SO_SNDBUF ? (file->room ? (int)file->room : 1 << 20) : option == SO_TIMESTAMPNS ? file->timestamps : 0;
    else if (level == SOL_UDP)
        number = option == TYPE_UDP_GRO && file->gro;
    else
        number = (option == IP_RECVERR || option == IPV6_RECVERR) && file->asks_for_errors;
    if (level == SOL_SOCKET && option == SO_ERROR) {
        number = file->error;
        file->error = 0;
    }
    if (level == SOL_SOCKET && option == SO_MEMINFO) {
        uint32_t memory[SK_MEMINFO_VARS] = {[SK_MEMINFO_DROPS] = file->drops};
        CLAIM(*length == sizeof(memory), "room for %u bytes", *length);
        memcpy(value, memory, sizeof(memory));
        return 0;
    }
    memcpy(value, &number, sizeof(number));
    *length = sizeof(number);
    return 0;
}

WRAP(int, bind, int fd, const struct sockaddr *name, socklen_t length)
{
    struct kernel_file *file = kernel_file(fd);
    struct udpring_address address;
    if (!file)
        return kernel.active ? fail(EBADF) : __real_bind(fd, name, length);
    int error = kernel_fault_wide();
    if (error)
        return fail(error);
    if (file->kind == KERNEL_NETLINK)
        return 0;
    CLAIM(udp_address_from_sockaddr((const struct sockaddr_storage *)(const void *)name, length, &address), "a strange address");
    file->bound = true;
    file->port = address.port ? address.port : 40000;
    return 0;
}

WRAP(int, getsockname, int fd, struct sockaddr *name, socklen_t *length)
{
    struct kernel_file *file = kernel_file(fd);
    if (!file)
        return kernel.active ? fail(EBADF) : __real_getsockname(fd, name, length);
    int error = kernel_fault_wide();
    if (error)
        return fail(error);
    struct udpring_address address = {.family = (uint16_t)file->family, .port = file->port};
    *length = udp_address_to_sockaddr(&address, file->family, (struct sockaddr_storage *)(void *)name);
    return 0;
}

WRAP(int, getpeername, int fd, struct sockaddr *name, socklen_t *length)
{
    const struct kernel_file *file = kernel_file(fd);
    if (!kernel.active)
        return __real_getpeername(fd, name, length);
    if (!file || !file->peer.family)
        return fail(file ? ENOTCONN : EBADF);
    *length = udp_address_to_sockaddr(&file->peer, file->family, (struct sockaddr_storage *)(void *)name);
    return 0;
}

WRAP(int, recvmmsg, int fd, struct mmsghdr *vector, unsigned count, int flags, struct timespec *timeout)
{
    if (!kernel.active)
        return __real_recvmmsg(fd, vector, count, flags, timeout);
    int error = kernel_fault_wide();
    if (error)
        return fail(error);
    for (unsigned i = 0; i < count; i++) {
        ssize_t got = kernel_receive(fd, &vector[i].msg_hdr);
        if (got < 0)
            return i ? (int)i : fail((int)-got);
        vector[i].msg_len = (unsigned)got;
    }
    return (int)count;
}

WRAP(ssize_t, recvmsg, int fd, struct msghdr *header, int flags)
{
    if (!kernel.active)
        return __real_recvmsg(fd, header, flags);
    struct kernel_file *file = kernel_file(fd);
    if (!(flags & MSG_ERRQUEUE) || !file)
        return answer(kernel_receive(fd, header));
    if (!file->errors)
        return fail(EAGAIN);
    file->errors--;
    if (!file->errors)
        file->error = 0;   /* with the last entry the kernel clears it */
    return 0;
}

WRAP(int, sendmmsg, int fd, struct mmsghdr *vector, unsigned count, int flags)
{
    if (!kernel.active)
        return __real_sendmmsg(fd, vector, count, flags);
    int error = kernel_fault_wide();
    if (error)
        return fail(error);
    for (unsigned i = 0; i < count; i++) {
        int32_t sent = kernel_send(fd, &vector[i].msg_hdr, false);
        if (sent < 0)
            return i ? (int)i : fail(-sent);
        vector[i].msg_len = (unsigned)sent;
    }
    return (int)count;
}

WRAP(ssize_t, sendmsg, int fd, const struct msghdr *header, int flags)
{
    if (!kernel.active)
        return __real_sendmsg(fd, header, flags);
    threads_give_way();
    return answer(kernel_send(fd, header, false));
}

/* Owner: the call that waits, on its stack. */
struct polled {
    struct pollfd *fds;
    nfds_t count;
};

static bool any_ready(void *context)
{
    struct polled *polled = context;
    bool ready = false;
    for (nfds_t i = 0; i < polled->count; i++) {
        struct pollfd *each = &polled->fds[i];
        each->revents = each->fd < 0 ? 0 : kernel_events(kernel_file(each->fd), each->events);
        ready |= each->revents != 0;
    }
    return ready;
}

static int poll_until(struct pollfd *fds, nfds_t count, uint64_t deadline_ns)
{
    struct polled polled = {fds, count};
    if (kernel.interrupts) {
        kernel.interrupts--;
        return fail(EINTR);
    }
    int error = kernel_fault_wide();
    if (error)
        return fail(error);
    if (!threads_wait(any_ready, &polled, deadline_ns))
        return 0;
    int ready = 0;
    for (nfds_t i = 0; i < count; i++)
        ready += fds[i].revents != 0;
    return ready;
}

static uint64_t deadline_of(const struct timespec *timeout)
{
    return timeout ? threads_now_ns + (uint64_t)timeout->tv_sec * 1000000000u + (uint64_t)timeout->tv_nsec : UINT64_MAX;
}

WRAP(int, ppoll, struct pollfd *fds, nfds_t count, const struct timespec *timeout, const sigset_t *mask)
{
    return kernel.active ? poll_until(fds, count, deadline_of(timeout)) : __real_ppoll(fds, count, timeout, mask);
}

WRAP(int, poll, struct pollfd *fds, nfds_t count, int milliseconds)
{
    if (!kernel.active)
        return __real_poll(fds, count, milliseconds);
    struct timespec timeout = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    return poll_until(fds, count, deadline_of(milliseconds < 0 ? NULL : &timeout));
}

WRAP(int, clock_gettime, clockid_t clock, struct timespec *now)
{
    if (!kernel.active)
        return __real_clock_gettime(clock, now);
    threads_now_ns += 50;   /* time never stands still */
    *now = (struct timespec){(time_t)(threads_now_ns / 1000000000u), (long)(threads_now_ns % 1000000000u)};
    return 0;
}

static bool never(void *context)
{
    return false;
}

WRAP(int, clock_nanosleep, clockid_t clock, int flags, const struct timespec *rest, struct timespec *left)
{
    if (!kernel.active)
        return __real_clock_nanosleep(clock, flags, rest, left);
    (void)threads_wait(never, NULL, deadline_of(rest));
    return 0;
}

WRAP(int, nanosleep, const struct timespec *rest, struct timespec *left)
{
    return kernel.active ? __wrap_clock_nanosleep(CLOCK_MONOTONIC, 0, rest, left) : __real_nanosleep(rest, left);
}

WRAP(ssize_t, getrandom, void *into, size_t bytes, unsigned flags)
{
    if (!kernel.active)
        return __real_getrandom(into, bytes, flags);
    int error = kernel_fault(false);
    if (error)
        return fail(error);
    for (size_t i = 0; i < bytes; i++) {
        kernel.random = kernel.random * 6364136223846793005u + 1442695040888963407u;
        ((uint8_t *)into)[i] = (uint8_t)(kernel.random >> 56);
    }
    return (ssize_t)bytes;
}
