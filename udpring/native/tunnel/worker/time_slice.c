#include "time_slice.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../limits.h"

#define KEEP_POLICY 0x08u    /* SCHED_FLAG_KEEP_POLICY */

/* struct sched_attr in its first version, which some C libraries lack. */
struct attributes {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;    /* runtime: the slice. 0: the kernel's own. Ignored before Linux 6.12 */
};

void time_slice_shorten(struct time_slice *slice, bool shorten)
{
    if (ur_likely(slice->is_short == shorten || slice->refused))
        return;
    long policy = syscall(SYS_sched_getscheduler, 0);    /* musl has no function for it */
    bool ours = policy == SCHED_OTHER || (policy == SCHED_BATCH && slice->is_batch);
    struct attributes attributes = {
        .size = sizeof(attributes),
        .policy = ours && !shorten ? SCHED_BATCH : SCHED_OTHER,
        .flags = ours ? 0 : KEEP_POLICY,    /* also where a sandbox hides it */
        .runtime = shorten ? TIME_SLICE_NS : 0,
    };
    slice->is_short = shorten;
    slice->is_batch = ours && !shorten;
    errno = 0;
    attributes.nice = getpriority(PRIO_PROCESS, 0);    /* of this thread. Else the call would reset it */
    /* Refused by a sandbox, or the user gave the thread a real-time policy: it keeps what it has. */
    slice->refused = errno || syscall(SYS_sched_setattr, 0, &attributes, 0) != 0;
}
