/* The three io_uring system calls. Each returns a value >= 0 or -errno. glibc has no wrappers for them. */
#ifndef UDPRING_URING_SYS_H
#define UDPRING_URING_SYS_H
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel.h"

/* The same numbers on every architecture except alpha, since Linux 5.1. */
#ifndef __NR_io_uring_setup
#define __NR_io_uring_setup 425
#define __NR_io_uring_enter 426
#define __NR_io_uring_register 427
#endif

static inline int ur_sys_setup(uint32_t entries, struct io_uring_params *params)
{
    long code = syscall(__NR_io_uring_setup, entries, params);
    return code < 0 ? -errno : (int)code;
}

static inline int ur_sys_enter(int fd, uint32_t to_submit, uint32_t min_complete, uint32_t flags, const void *argument,
                               size_t size)
{
    long code = syscall(__NR_io_uring_enter, fd, to_submit, min_complete, flags, argument, size);
    return code < 0 ? -errno : (int)code;
}

static inline int ur_sys_register(int fd, uint32_t opcode, const void *argument, uint32_t count)
{
    long code = syscall(__NR_io_uring_register, fd, opcode, argument, count);
    return code < 0 ? -errno : (int)code;
}
#endif
