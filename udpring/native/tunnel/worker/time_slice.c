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

void time_slice_set(struct time_slice *slice, bool is_short, bool patient)
{
    if (ur_likely((slice->is_short == is_short && slice->patient == patient) || slice->refused))
        return;
    long policy = syscall(SYS_sched_getscheduler, 0);    /* musl has no function for it */
    bool ours = policy == SCHED_OTHER || (policy == SCHED_BATCH && slice->is_batch);
    struct attributes attributes = {
        .size = sizeof(attributes),
        .policy = ours && patient ? SCHED_BATCH : SCHED_OTHER,
        .flags = ours ? 0 : KEEP_POLICY,    /* also where a sandbox hides it */
        .runtime = is_short ? TIME_SLICE_NS : 0,
    };
    slice->is_short = is_short;
    slice->patient = patient;
    slice->is_batch = ours && patient;
    errno = 0;
    attributes.nice = getpriority(PRIO_PROCESS, 0);    /* of this thread. Else the call would reset it */
    /* Refused by a sandbox, or the user gave the thread a real-time policy: it keeps what it has. */
    slice->refused = errno || syscall(SYS_sched_setattr, 0, &attributes, 0) != 0;
}

uint32_t time_slice_socket_rate(struct time_slice *slice)
{
    struct attributes attributes = {0};
    if (ur_unlikely(!slice->socket_rate)) {
        bool told = syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) == 0 && attributes.runtime;
        uint64_t wait = (told ? attributes.runtime : TIME_SLICE_KERNELS_NS) / 4 * 3;    /* as measured: less than a whole one */
        slice->socket_rate = wait > SOCKET_BYTES ? (uint32_t)(SOCKET_BYTES * NS_PER_S / wait) : UINT32_MAX;
    }
    return slice->socket_rate;
}
