#include "handle.h"

#include <signal.h>
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
