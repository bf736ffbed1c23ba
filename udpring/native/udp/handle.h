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

/* Which socket a descriptor stood for: its number may stand for another one after a close.
 * Owner: the handle it is embedded in. Thread: the opener's. Nothing to free. */
struct udp_handle_socket {
    int fd;
    uint64_t device, inode;
};

int udp_handle_claim(struct udp_handle_owner *owner) UR_MUST_CHECK;
/* 0, or -EXDEV for another thread or a forked child. */
int udp_handle_check(const struct udp_handle_owner *owner);
/* 0 when this thread may close it: the owner, a forked child (which only drops its copy), or anyone once the owner's
 * thread has ended. */
int udp_handle_check_close(const struct udp_handle_owner *owner);

int udp_handle_claim_socket(struct udp_handle_socket *socket, int fd) UR_MUST_CHECK;
/* 0, or -EBADF: it was closed, whatever has its number now. */
int udp_handle_check_socket(const struct udp_handle_socket *socket);
/* 0, or -ESHUTDOWN: receiving on it was shut down (shutdown(2)), nothing will come any more. */
int udp_handle_check_reading(const struct udp_handle_socket *socket);
#endif
