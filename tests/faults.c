/* Makes calls of the core fail. It stands before the C library in a program (preload.py). A file that the test maps as well
 * (faults.py) says which calls fail, how, and how often. It may change while the program runs, and the test reads the counts.
 *
 * Only calls from the compiled module count, which their return addresses show. Python makes the same calls for itself. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* In the order of CALLS in faults.py. */
enum call { ENTER, SETUP, REGISTER, PPOLL, POLL, RECVMMSG, SENDMMSG, RECVMSG, SENDMSG, SENDTO, READ, WRITE, WRITEV, IOCTL, GETSOCKOPT,
            SETSOCKOPT, SOCKET, BIND, MMAP, MADVISE, EVENTFD, MALLOC, CALLOC, REALLOC, ALIGNED, GETRANDOM, THREAD, FSTAT, CALLS };

/* As struct.Struct("=iiqqqqq") in faults.py. */
struct fault {
    int32_t error;              /* 0: none */
    int32_t group;              /* counted with that call: the k-th of several kinds */
    int64_t skip;               /* this many succeed first */
    int64_t left;               /* this many fail; negative: all */
    int64_t every;              /* of the calls after skip, only each n-th */
    int64_t seen, failed;
};

static struct fault *faults;
static uintptr_t core_begin, core_end;

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULTS");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *map = (void *)syscall(SYS_mmap, NULL, CALLS * sizeof(*faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED)
        faults = map;
    close(fd);
}

static int look(struct dl_phdr_info *info, size_t size, void *unused)
{
    (void)size, (void)unused;
    const char *name = strrchr(info->dlpi_name, '/');
    if (!name || strncmp(name, "/_core.", 7))
        return 0;
    uintptr_t end = 0;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD && info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz > end)
            end = info->dlpi_phdr[i].p_vaddr + info->dlpi_phdr[i].p_memsz;
    core_end = info->dlpi_addr + end;
    __atomic_store_n(&core_begin, info->dlpi_addr, __ATOMIC_RELEASE);
    return 1;
}

static bool from_core(void *from)
{
    static __thread bool looking;
    if (!__atomic_load_n(&core_begin, __ATOMIC_ACQUIRE) && !looking) {
        looking = true;         /* dlsym may allocate */
        dl_iterate_phdr(look, NULL);
        looking = false;
    }
    uintptr_t begin = __atomic_load_n(&core_begin, __ATOMIC_ACQUIRE);
    return begin && (uintptr_t)from >= begin && (uintptr_t)from < core_end;
}

/* Whether this call fails. Sets errno then. */
static bool fails(enum call call, void *from)
{
    if (!faults || !__atomic_load_n(&faults[call].error, __ATOMIC_ACQUIRE) || !from_core(from))
        return false;
    struct fault *fault = &faults[faults[call].group];
    __atomic_fetch_add(&faults[call].seen, 1, __ATOMIC_RELAXED);
    int64_t behind = -__atomic_fetch_sub(&fault->skip, 1, __ATOMIC_RELAXED);
    if (behind < 0 || (fault->every > 1 && behind % fault->every))
        return false;
    if (__atomic_load_n(&fault->left, __ATOMIC_RELAXED) >= 0 && __atomic_fetch_sub(&fault->left, 1, __ATOMIC_RELAXED) <= 0) {
        __atomic_store_n(&fault->left, 0, __ATOMIC_RELAXED);
        return false;
    }
    __atomic_fetch_add(&faults[call].failed, 1, __ATOMIC_RELAXED);
    errno = faults[call].error;
    return true;
}

#define FAILS(call) fails(call, __builtin_return_address(0))
#define NEXT(name)                                                                                                     \
    static __typeof__(name) *next;                                                                                     \
    if (!next)                                                                                                         \
        next = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

long syscall(long number, ...)
{
    va_list list;
    long a[6];
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(list, long);
    va_end(list);
    if ((number == 426 && FAILS(ENTER)) || (number == 425 && FAILS(SETUP)) || (number == 427 && FAILS(REGISTER)))
        return -1;
    static long (*next)(long, ...);
    if (!next)
        next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int ppoll(struct pollfd *fds, nfds_t count, const struct timespec *limit, const sigset_t *mask)
{
    NEXT(ppoll);
    return FAILS(PPOLL) ? -1 : next(fds, count, limit, mask);
}

int poll(struct pollfd *fds, nfds_t count, int limit)
{
    NEXT(poll);
    return FAILS(POLL) ? -1 : next(fds, count, limit);
}

int recvmmsg(int fd, struct mmsghdr *vector, unsigned count, int flags, struct timespec *limit)
{
    NEXT(recvmmsg);
    return FAILS(RECVMMSG) ? -1 : next(fd, vector, count, flags, limit);
}

int sendmmsg(int fd, struct mmsghdr *vector, unsigned count, int flags)
{
    NEXT(sendmmsg);
    return FAILS(SENDMMSG) ? -1 : next(fd, vector, count, flags);
}

ssize_t recvmsg(int fd, struct msghdr *header, int flags)
{
    NEXT(recvmsg);
    return FAILS(RECVMSG) ? -1 : next(fd, header, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *header, int flags)
{
    NEXT(sendmsg);
    return FAILS(SENDMSG) ? -1 : next(fd, header, flags);
}

ssize_t sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t bytes)
{
    NEXT(sendto);
    return FAILS(SENDTO) ? -1 : next(fd, data, length, flags, to, bytes);
}

ssize_t read(int fd, void *into, size_t length)
{
    NEXT(read);
    return FAILS(READ) ? -1 : next(fd, into, length);
}

/* The names of the same calls under _FORTIFY_SOURCE where the compiler does not know the lengths. */
ssize_t __read_chk(int fd, void *into, size_t length, size_t room)
{
    if (length > room)
        abort();
    return FAILS(READ) ? -1 : read(fd, into, length);
}

int __ppoll_chk(struct pollfd *fds, nfds_t count, const struct timespec *limit, const sigset_t *mask, size_t room)
{
    if (count * sizeof(*fds) > room)
        abort();
    return FAILS(PPOLL) ? -1 : ppoll(fds, count, limit, mask);
}

int __poll_chk(struct pollfd *fds, nfds_t count, int limit, size_t room)
{
    if (count * sizeof(*fds) > room)
        abort();
    return FAILS(POLL) ? -1 : poll(fds, count, limit);
}

ssize_t write(int fd, const void *data, size_t length)
{
    NEXT(write);
    return FAILS(WRITE) ? -1 : next(fd, data, length);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    NEXT(writev);
    return FAILS(WRITEV) ? -1 : next(fd, parts, count);
}

int ioctl(int fd, unsigned long request, ...)
{
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    static int (*next)(int, unsigned long, ...);
    if (!next)
        next = (int (*)(int, unsigned long, ...))dlsym(RTLD_NEXT, "ioctl");
    return FAILS(IOCTL) ? -1 : next(fd, request, argument);
}

int getsockopt(int fd, int level, int name, void *value, socklen_t *length)
{
    NEXT(getsockopt);
    return FAILS(GETSOCKOPT) ? -1 : next(fd, level, name, value, length);
}

int setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
    NEXT(setsockopt);
    return FAILS(SETSOCKOPT) ? -1 : next(fd, level, name, value, length);
}

int fstat(int fd, struct stat *status)
{
    NEXT(fstat);
    return FAILS(FSTAT) ? -1 : next(fd, status);
}

int socket(int domain, int type, int protocol)
{
    NEXT(socket);
    return FAILS(SOCKET) ? -1 : next(domain, type, protocol);
}

int socketpair(int domain, int type, int protocol, int made[2])
{
    NEXT(socketpair);
    return FAILS(SOCKET) ? -1 : next(domain, type, protocol, made);
}

int bind(int fd, const struct sockaddr *name, socklen_t length)
{
    NEXT(bind);
    return FAILS(BIND) ? -1 : next(fd, name, length);
}

void *mmap(void *where, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (FAILS(MMAP))
        return MAP_FAILED;
    /* Not by dlsym, which may call mmap. */
    static long (*next)(long, ...);
    if (!next)
        next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    return (void *)next(SYS_mmap, where, length, protection, flags, fd, offset);
}

int madvise(void *where, size_t length, int advice)
{
    NEXT(madvise);
    return FAILS(MADVISE) ? -1 : next(where, length, advice);
}

int eventfd(unsigned count, int flags)
{
    static int (*next)(unsigned, int);
    if (!next)
        next = (int (*)(unsigned, int))dlsym(RTLD_NEXT, "eventfd");
    return FAILS(EVENTFD) ? -1 : next(count, flags);
}

ssize_t getrandom(void *into, size_t length, unsigned flags)
{
    static ssize_t (*next)(void *, size_t, unsigned);
    if (!next)
        next = (ssize_t (*)(void *, size_t, unsigned))dlsym(RTLD_NEXT, "getrandom");
    return FAILS(GETRANDOM) ? -1 : next(into, length, flags);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument)
{
    NEXT(pthread_create);
    return FAILS(THREAD) ? errno : next(thread, attributes, run, argument);
}

/* glibc's own names, or AddressSanitizer's if it is loaded. dlsym allocates, so it cannot look them up. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t),
    *__libc_memalign(size_t, size_t);
extern void *__interceptor_malloc(size_t) __attribute__((weak));
extern void *__interceptor_calloc(size_t, size_t) __attribute__((weak));
extern void *__interceptor_realloc(void *, size_t) __attribute__((weak));
extern void *__interceptor_memalign(size_t, size_t) __attribute__((weak));

static void *next_memalign(size_t alignment, size_t bytes)
{
    return __interceptor_memalign ? __interceptor_memalign(alignment, bytes) : __libc_memalign(alignment, bytes);
}

void *malloc(size_t bytes)
{
    if (FAILS(MALLOC))
        return NULL;
    return __interceptor_malloc ? __interceptor_malloc(bytes) : __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    if (FAILS(CALLOC))
        return NULL;
    return __interceptor_calloc ? __interceptor_calloc(count, bytes) : __libc_calloc(count, bytes);
}

void *realloc(void *old, size_t bytes)
{
    if (FAILS(REALLOC))
        return NULL;
    return __interceptor_realloc ? __interceptor_realloc(old, bytes) : __libc_realloc(old, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return FAILS(ALIGNED) ? NULL : next_memalign(alignment, bytes);
}

int posix_memalign(void **made, size_t alignment, size_t bytes)
{
    if (FAILS(ALIGNED))
        return errno;
    *made = next_memalign(alignment, bytes);
    return *made ? 0 : ENOMEM;
}
