/* Attributes and small inline tools that every room uses. No state, no policy. */
#ifndef UDPRING_BASE_H
#define UDPRING_BASE_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "abi.h"

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#define UR_MUST_CHECK __attribute__((warn_unused_result))
#define UR_PRINTF(string, first) __attribute__((format(printf, string, first)))
/* For large locals that each pass writes before it reads them. The build zeroes all others. */
#ifdef __has_attribute
#if __has_attribute(uninitialized)
#define UR_UNINITIALIZED __attribute__((uninitialized))
#endif
#endif
#ifndef UR_UNINITIALIZED
#define UR_UNINITIALIZED
#endif
/* For rare code with large arrays in a function that each pass calls. A function with such arrays probes its stack at each call
 * (-fstack-clash-protection), even if it does not use them. */
#define UR_NOINLINE __attribute__((noinline))
#define ur_likely(x) __builtin_expect(!!(x), 1)
#define ur_unlikely(x) __builtin_expect(!!(x), 0)
#define UR_ARRAY_LENGTH(a) (sizeof(a) / sizeof((a)[0]))

/* Writes into `why` (which may be NULL) and returns `code`, so that a failing path is one line. */
int ur_fail(struct udpring_reason *why, int code, const char *format, ...) UR_PRINTF(3, 4);

/* The error number of a negative result of the kernel, which gives -4095 to -1 (errno(3)). EIO for any other value. */
static inline int ur_errno(int32_t result)
{
    return ur_likely(result >= -4095) ? -result : EIO;
}

static inline uint64_t ur_clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}
#endif
