/* Who may use a handle that Python holds: the thread that opened it, in the process that opened it. The io_uring tiers
 * need that; the mmsg tier keeps to the same rule, so that a program behaves alike on every host. */
#ifndef UDPRING_UDP_HANDLE_H
#define UDPRING_UDP_HANDLE_H
#include "../base.h"

/* Owner: the handle it is embedded in. Thread: written by the opener, read by any. Nothing to free. */
struct udp_handle_owner {
    uint64_t thread;      /* ur_thread_number() */
    int32_t tid;
    uint32_t forks;
};

int udp_handle_claim(struct udp_handle_owner *owner) UR_MUST_CHECK;
/* 0, or -EXDEV for another thread or a forked child. */
int udp_handle_check(const struct udp_handle_owner *owner);
/* 0 when this thread may close it: the owner, a forked child (which only drops its copy), or anyone once the owner's
 * thread has ended. */
int udp_handle_check_close(const struct udp_handle_owner *owner);
#endif
