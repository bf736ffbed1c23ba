/* Explains why the kernel refuses a ring, and the cure. EPERM, ENOSYS and ENOMEM each have more than one cause. */
#include "explain.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "kernel.h"

/* The sysctl of Linux 6.6, or -1 if it cannot be read (older kernel, no /proc). */
static int disabled_sysctl(void)
{
    char digit = 0;
    int fd = open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t length = read(fd, &digit, 1);
    close(fd);
    return length == 1 && digit >= '0' && digit <= '9' ? digit - '0' : -1;
}

static int explain_denied(struct udpring_reason *why, int code, const char *call)
{
    switch (disabled_sysctl()) {
    case 2:
        return ur_fail(why, code, "%s: io_uring is off on this host (kernel.io_uring_disabled = 2): "
                       "sysctl kernel.io_uring_disabled=0 allows it", call);
    case 1:
        return ur_fail(why, code, "%s: io_uring is for CAP_SYS_ADMIN and the group kernel.io_uring_group only "
                       "(kernel.io_uring_disabled = 1): join that group, or sysctl kernel.io_uring_disabled=0", call);
    default:
        return ur_fail(why, code, "%s: not permitted by a seccomp filter or security module, as in most containers "
                       "(Docker >= 25, containerd >= 2): allow io_uring_setup, io_uring_enter and io_uring_register", call);
    }
}

static int explain_memory(struct udpring_reason *why, int code, const char *call, uint32_t entries)
{
    struct rlimit locked = {0}, space = {0};
    getrlimit(RLIMIT_MEMLOCK, &locked);
    getrlimit(RLIMIT_AS, &space);
    if (space.rlim_cur != RLIM_INFINITY)
        return ur_fail(why, code, "%s: no memory for a ring of %u entries; RLIMIT_AS is %llu KiB: raise it (ulimit -v)",
                       call, entries, (unsigned long long)space.rlim_cur >> 10);
    if (locked.rlim_cur != RLIM_INFINITY)
        return ur_fail(why, code, "%s: no memory for a ring of %u entries; RLIMIT_MEMLOCK is %llu KiB, and rings count "
                       "against it, but not from Linux 5.12 to 6.13: raise it (ulimit -l)", call, entries,
                       (unsigned long long)locked.rlim_cur >> 10);
    return ur_fail(why, code, "%s: no memory for a ring of %u entries: free some, or raise the cgroup's limit", call,
                   entries);
}

/* The options of a ring that a kernel may refuse, with their needs. */
static const struct { uint32_t flag; const char *needs; } options[] = {
    {IORING_SETUP_SQPOLL, "SQPOLL (before Linux 5.13: the right CAP_SYS_NICE)"},
    {IORING_SETUP_SQ_AFF, "SQ_AFF (a CPU that is online and allowed)"},
    {IORING_SETUP_ATTACH_WQ, "ATTACH_WQ (an open io_uring, which polls too if this one is to poll)"},
    {IORING_SETUP_SQE128, "SQE128 (Linux 5.19)"},
    {IORING_SETUP_CQE32, "CQE32 (Linux 5.19)"},
    {IORING_SETUP_CQE_MIXED, "CQE_MIXED (Linux 6.18)"},
};

static int explain_options(struct udpring_reason *why, int code, const char *call, uint32_t wanted)
{
    char list[sizeof(why->text)] = "";
    size_t length = 0;
    for (size_t i = 0; i < UR_ARRAY_LENGTH(options); i++)
        if ((wanted & options[i].flag) && length < sizeof(list))
            length += (size_t)snprintf(list + length, sizeof(list) - length, "%s%s", length ? ", " : "", options[i].needs);
    return ur_fail(why, code, "%s: %s: the kernel refuses this ring with its option %s", call, strerror(-code), list);
}

int ur_explain(struct udpring_reason *why, int code, const char *call, uint32_t entries, uint32_t wanted)
{
    if (wanted && code != -ENOSYS && code != -ENOMEM && code != -EMFILE && code != -ENFILE &&
        !(code == -EPERM && disabled_sysctl() > 0))
        return explain_options(why, code, call, wanted);
    switch (-code) {
    case EPERM:
    case EACCES:
        return explain_denied(why, code, call);
    case ENOSYS:
        return ur_fail(why, code, "%s: this kernel has no io_uring (before Linux 5.1, or built without), or a sandbox "
                       "hides it (gVisor, a seccomp filter): use another host or profile", call);
    case ENOMEM:
        return explain_memory(why, code, call, entries);
    case EMFILE:
    case ENFILE:
        return ur_fail(why, code, "%s: too many open files: raise RLIMIT_NOFILE (ulimit -n) or fs.file-max", call);
    case EINVAL:
        return ur_fail(why, code, "%s: the kernel refuses every set of flags that udpring knows for %u entries", call, entries);
    default:
        return ur_fail(why, code, "%s: %s", call, strerror(-code));
    }
}
