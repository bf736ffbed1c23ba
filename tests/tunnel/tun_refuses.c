/* A TUN device that accepts TUNSETOFFLOAD and then refuses super-packets with EINVAL, as Linux 6.1.103, 6.6.44 and 6.10.3 do.
 * REFUSE=all: all of them. REFUSE=short: those with a shorter last segment. REFUSE=once: the first. REFUSE=memory: all, with
 * ENOMEM. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

struct vnet_header {
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset;
};

static const char *mode = "";
static ssize_t (*next)(int, const struct iovec *, int);
static unsigned refused;

__attribute__((constructor)) static void begin(void)
{
    next = (ssize_t (*)(int, const struct iovec *, int))dlsym(RTLD_NEXT, "writev");
    if (getenv("REFUSE"))
        mode = getenv("REFUSE");
}

static bool refuses(const struct iovec *parts, int count)
{
    const struct vnet_header *vnet = parts[0].iov_base;
    if (count < 3 || parts[0].iov_len != sizeof(*vnet) || !vnet->gso_type)
        return false;
    size_t length = 0;
    for (int i = 1; i < count; i++)
        length += parts[i].iov_len;
    if (!strcmp(mode, "short"))
        return (length - vnet->hdr_len) % vnet->gso_size != 0;
    if (!strcmp(mode, "once"))
        return !refused;
    return *mode;
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    if (!refuses(parts, count))
        return next(fd, parts, count);
    refused++;
    errno = strcmp(mode, "memory") ? EINVAL : ENOMEM;
    return -1;
}
