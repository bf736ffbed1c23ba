/* A handle of Python may only be used by the thread that opened it, in the process that opened it. The io_uring tiers need this
 * rule. The mmsg tier follows it too, so that a program behaves the same on every host. Only the transports of event loops
 * change the owner, on that tier (udpring_recv_move()). */
#ifndef UDPRING_UDP_HANDLE_H
#define UDPRING_UDP_HANDLE_H
#include "../base.h"

/* Owner: the handle it is embedded in. Thread: written by the opener, read by any. Nothing to free. */
struct udp_handle_owner {
    uint64_t thread;      /* ur_thread_number() */
    int32_t tid;
    uint32_t forks;
};

/* The identity of a socket: after a close, its descriptor number may belong to another file.
 * Owner: the handle it is embedded in. Thread: the opener's. Nothing to free. */
struct udp_handle_socket {
    int fd;
    uint64_t device, inode;
};

int udp_handle_claim(struct udp_handle_owner *owner) UR_MUST_CHECK;
/* 0, or -EXDEV for another thread or a forked child. */
int udp_handle_check(const struct udp_handle_owner *owner);
/* 0 when this thread may close the handle: the owner, a forked child (which only drops its copy), or any thread once the
 * owner's thread has ended. */
int udp_handle_check_close(const struct udp_handle_owner *owner);

int udp_handle_claim_socket(struct udp_handle_socket *socket, int fd) UR_MUST_CHECK;
/* 0, or -EBADF: the socket was closed, even if its number is in use again. */
int udp_handle_check_socket(const struct udp_handle_socket *socket);
/* 0, or -ESHUTDOWN: receiving was shut down (shutdown(2)), so no more datagrams will arrive. */
int udp_handle_check_reading(const struct udp_handle_socket *socket);
#endif
