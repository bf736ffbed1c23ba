/* The interface of the ring layer to Python (udpring/uring): a general ring whose operations own their memory, and the
 * probe. */
#ifndef UDPRING_URING_ABI_H
#define UDPRING_URING_ABI_H
#include "../abi.h"

/* ---- a ring with owned operations ----
 * Flow: udpring_ring_put() copies what the kernel may read into an operation slot, or notes who holds it. udpring_ring_wait() submits and waits.
 * udpring_ring_harvest() returns completions with pointers into the slots, and frees the slots of those before.
 * Owner: the caller of open. Thread: the one that opened (or enabled) it. Others get -EXDEV. Freed by udpring_ring_free(). */
struct udpring_ring;

#define UDPRING_SLOTS_MAX 1048576u

struct udpring_ring_options {
    uint32_t entries;        /* submission queue. 0 = 256 */
    uint32_t cq_entries;     /* completion queue. 0 = 4 x entries */
    uint32_t slots;          /* operations at a time. 0 = the size of the completion queue. At most UDPRING_SLOTS_MAX */
    uint32_t flags_deny;     /* IORING_SETUP_* bits not to request */
    uint32_t flags_want;     /* of UDPRING_SETUP_*: R_DISABLED, SQPOLL, SQ_AFF, ATTACH_WQ, SQE128, CQE32, CQE_MIXED */
    uint32_t sq_thread_idle; /* milliseconds. 0 = 1000 */
    uint32_t sq_thread_cpu;  /* with SQ_AFF */
    uint32_t wq_fd;          /* with ATTACH_WQ: of the other ring */
    uint32_t workers[2];     /* the most io-wq threads, bounded and unbounded. 0 = 4 */
};

struct udpring_ring_info {
    uint32_t sq_entries, cq_entries, slots;
    uint32_t setup_flags, features;
    uint32_t halvings;       /* number of times that ENOMEM halved the entries or the slots */
    int32_t iowq_error;      /* of the bound on kernel workers: 0 or -errno */
    int32_t owner_tid;
    uint32_t queued;         /* not submitted yet */
    uint32_t needs_wakeup;   /* 1: the thread of SQPOLL sleeps. The next submit wakes it */
    uint32_t ready;          /* completions to harvest */
    uint32_t busy_slots;     /* queued, in flight or harvested last */
    int64_t in_flight;       /* submitted, without their terminal completion */
    uint64_t stale;          /* completions that matched no operation */
    uint32_t lost;           /* completions that the kernel dropped because it had no memory */
};

int32_t udpring_ring_open(struct udpring_ring **ring, const struct udpring_ring_options *options, struct udpring_reason *why);
int32_t udpring_ring_enable(struct udpring_ring *ring);
/* 0. > 0: this many operations did not end within 2 s, and their memory went to the graveyard. -EXDEV: the caller is not the
 * owner, and the owner thread still runs. Nothing was done. Idempotent. */
int32_t udpring_ring_close(struct udpring_ring *ring);
/* Frees all memory. Call after close, in any thread. The memory of a ring that is not closed is leaked and counted. After a close
 * every other call but this one returns -EBADF or does nothing, and what the last harvest returned stays readable. */
void udpring_ring_free(struct udpring_ring *ring);
int32_t udpring_ring_fd(const struct udpring_ring *ring);   /* any thread. -EBADF after close */
/* An eventfd of the ring, made at the first call, that is readable from a completion or from work that will produce one until
 * udpring_ring_attend(). -EBUSY: the program registered its own. */
int32_t udpring_ring_fileno(struct udpring_ring *ring);
/* Runs deferred work and fetches overflowed completions, if there are any, and clears that eventfd. Does not wait. */
int32_t udpring_ring_attend(struct udpring_ring *ring);
/* Makes the eventfd readable again: completions were left. */
void udpring_ring_rouse(struct udpring_ring *ring);
int32_t udpring_ring_info(struct udpring_ring *ring, struct udpring_ring_info *out);

/* The operations, a row each:
 *   symbol, name, the kernel's IORING_OP_*, its memory (enum ur_memory in table.h), the arguments that it takes (UR_TAKES_* in
 *   table.h), bits of sqe.ioprio that are always set, bits of sqe.op_flags that are always set, the kernel that first has it. */
#define UDPRING_OPERATIONS(each) \
    each(NOP, "nop", NOP, NONE, LEN | BITS, 0, 0, 501) \
    each(READ, "read", READ, OUT, FILE | OFF | LEN | BITS | READS, 0, 0, 506) \
    each(WRITE, "write", WRITE, IN, FILE | OFF | BITS | WRITES, 0, 0, 506) \
    each(READV, "readv", READV, VECTOR, FILE | OFF | BITS | READS, 0, 0, 501) \
    each(WRITEV, "writev", WRITEV, VECTOR, FILE | OFF | BITS | WRITES, 0, 0, 501) \
    each(READ_FIXED, "read_fixed", READ_FIXED, FIXED, FILE | OFF | ADDR | LEN | BITS | BUFFER | READS, 0, 0, 501) \
    each(WRITE_FIXED, "write_fixed", WRITE_FIXED, FIXED, FILE | OFF | ADDR | LEN | BITS | BUFFER | WRITES, 0, 0, 501) \
    each(READ_GROUP, "read_group", READ, GROUP, FILE | OFF | BITS | BUFFER | READS, 0, 0, 507) \
    each(READ_MULTISHOT, "read_multishot", READ_MULTISHOT, GROUP, FILE | OFF | BUFFER | READS, 0, 0, 607) \
    each(FSYNC, "fsync", FSYNC, NONE, FILE | OFF | LEN | BITS | QUIET, 0, 0, 501) \
    each(FALLOCATE, "fallocate", FALLOCATE, NONE, FILE | OFF | ADDR | LEN | QUIET, 0, 0, 506) \
    each(FTRUNCATE, "ftruncate", FTRUNCATE, NONE, FILE | OFF | QUIET, 0, 0, 609) \
    each(FADVISE, "fadvise", FADVISE, NONE, FILE | OFF | ADDR | LEN | BITS, 0, 0, 506) \
    each(MADVISE, "madvise", MADVISE, PAGES, BITS | QUIET, 0, 0, 506) \
    each(SPLICE, "splice", SPLICE, NONE, FILE | OFF | ADDR | LEN | BITS | INDEX, 0, 0, 507) \
    each(TEE, "tee", TEE, NONE, FILE | LEN | BITS | INDEX, 0, 0, 508) \
    each(OPENAT2, "openat2", OPENAT2, OPEN, FD | OFF | ADDR | LEN | INDEX, 0, 0, 506) \
    each(CLOSE, "close", CLOSE, NONE, FD | INDEX, 0, 0, 506) \
    each(STATX, "statx", STATX, STATX, FD | LEN | BITS | QUIET, 0, 0, 506) \
    each(UNLINKAT, "unlinkat", UNLINKAT, PATH, FD | BITS | QUIET, 0, 0, 511) \
    each(RENAMEAT, "renameat", RENAMEAT, TWO_PATHS, FD | LEN | BITS | QUIET, 0, 0, 511) \
    each(MKDIRAT, "mkdirat", MKDIRAT, PATH, FD | LEN | QUIET, 0, 0, 515) \
    each(SYMLINKAT, "symlinkat", SYMLINKAT, TWO_PATHS, FD | QUIET, 0, 0, 515) \
    each(LINKAT, "linkat", LINKAT, TWO_PATHS, FD | LEN | BITS | QUIET, 0, 0, 515) \
    each(FGETXATTR, "fgetxattr", FGETXATTR, XATTR_GET, FILE | LEN | QUIET, 0, 0, 519) \
    each(FSETXATTR, "fsetxattr", FSETXATTR, XATTR_SET, FILE | LEN | BITS | QUIET, 0, 0, 519) \
    each(GETXATTR, "getxattr", GETXATTR, XATTR_GET, LEN | QUIET, 0, 0, 519) \
    each(SETXATTR, "setxattr", SETXATTR, XATTR_SET, LEN | BITS | QUIET, 0, 0, 519) \
    each(SOCKET, "socket", SOCKET, NONE, FD | OFF | LEN | INDEX, 0, 0, 519) \
    each(BIND, "bind", BIND, NAME, FILE, 0, 0, 611) \
    each(LISTEN, "listen", LISTEN, NONE, FILE | LEN, 0, 0, 611) \
    each(ACCEPT, "accept", ACCEPT, ACCEPT, FILE | BITS | PRIO | INDEX, 0, 0, 505) \
    each(ACCEPT_MULTISHOT, "accept_multishot", ACCEPT, SHOTS, FILE | BITS | PRIO | INDEX, IORING_ACCEPT_MULTISHOT, 0, 519) \
    each(CONNECT, "connect", CONNECT, NAME, FILE, 0, 0, 505) \
    each(SHUTDOWN, "shutdown", SHUTDOWN, NONE, FILE | LEN, 0, 0, 511) \
    each(SEND, "send", SEND, IN, FILE | BITS | PRIO, 0, 0, 506) \
    each(SEND_GROUP, "send_group", SEND, GROUP_SEND, FILE | BITS | PRIO | BUFFER, 0, MSG_WAITALL, 610) \
    each(SEND_ZC, "send_zc", SEND_ZC, IN, FILE | BITS | PRIO | NOTIFIES, 0, 0, 600) \
    each(SEND_ZC_FIXED, "send_zc_fixed", SEND_ZC, FIXED, FILE | ADDR | LEN | BITS | PRIO | BUFFER | NOTIFIES, IORING_RECVSEND_FIXED_BUF, 0, 600) \
    each(RECV, "recv", RECV, OUT, FILE | LEN | BITS | PRIO, 0, 0, 506) \
    each(RECV_GROUP, "recv_group", RECV, GROUP, FILE | BITS | PRIO | BUFFER, 0, 0, 507) \
    each(RECV_MULTISHOT, "recv_multishot", RECV, GROUP, FILE | BITS | PRIO | BUFFER, IORING_RECV_MULTISHOT, 0, 600) \
    each(SENDMSG, "sendmsg", SENDMSG, MESSAGE_OUT, FILE | BITS | PRIO, 0, 0, 503) \
    each(SENDMSG_ZC, "sendmsg_zc", SENDMSG_ZC, MESSAGE_OUT, FILE | BITS | PRIO | NOTIFIES, 0, 0, 601) \
    each(RECVMSG, "recvmsg", RECVMSG, MESSAGE_IN, FILE | LEN | BITS | PRIO, 0, 0, 503) \
    each(RECVMSG_MULTISHOT, "recvmsg_multishot", RECVMSG, MESSAGE_GROUP, FILE | BITS | PRIO | BUFFER, IORING_RECV_MULTISHOT, 0, 600) \
    each(POLL_ADD, "poll_add", POLL_ADD, POLL, FILE | LEN | BITS | POLLS, 0, 0, 501) \
    each(POLL_UPDATE, "poll_update", POLL_REMOVE, POLL, ADDR | LEN | BITS, 0, 0, 513) \
    each(POLL_REMOVE, "poll_remove", POLL_REMOVE, NONE, ADDR, 0, 0, 501) \
    each(EPOLL_WAIT, "epoll_wait", EPOLL_WAIT, EVENTS, FILE | LEN | POLLS, 0, 0, 615) \
    each(TIMEOUT, "timeout", TIMEOUT, TIME, OFF | ADDR | BITS, 0, 0, 504) \
    each(TIMEOUT_UPDATE, "timeout_update", TIMEOUT_REMOVE, TIME_UPDATE, OFF | ADDR | BITS, 0, IORING_TIMEOUT_UPDATE, 511) \
    each(TIMEOUT_REMOVE, "timeout_remove", TIMEOUT_REMOVE, NONE, ADDR, 0, 0, 505) \
    each(LINK_TIMEOUT, "link_timeout", LINK_TIMEOUT, TIME, ADDR | BITS, 0, 0, 505) \
    each(LINK_TIMEOUT_UPDATE, "link_timeout_update", TIMEOUT_REMOVE, TIME_UPDATE, OFF | ADDR | BITS, 0, \
         IORING_TIMEOUT_UPDATE | IORING_LINK_TIMEOUT_UPDATE, 515) \
    each(CANCEL, "cancel", ASYNC_CANCEL, NONE, FD | ADDR | LEN | BITS, 0, 0, 505) \
    each(MSG_RING, "msg_ring", MSG_RING, MESSAGE, FD | OFF | LEN | BITS, 0, 0, 518) \
    each(MSG_RING_FD, "msg_ring_fd", MSG_RING, SEND_FD, FD | OFF | ADDR | BITS | INDEX, 0, 0, 600) \
    each(FUTEX_WAIT, "futex_wait", FUTEX_WAIT, WORD, FD | OFF | ADDR, 0, 0, 607) \
    each(FUTEX_WAKE, "futex_wake", FUTEX_WAKE, WORD, FD | OFF | ADDR, 0, 0, 607) \
    each(WAITID, "waitid", WAITID, SIGINFO, FD | LEN | INDEX, 0, 0, 607) \
    each(FILES_UPDATE, "files_update", FILES_UPDATE, FILES, OFF, 0, 0, 506) \
    each(GIVE_BUFFERS, "give_buffers", PROVIDE_BUFFERS, GIVE, FD | OFF | BUFFER, 0, 0, 507) \
    each(REMOVE_BUFFERS, "remove_buffers", REMOVE_BUFFERS, TAKE_BACK, FD | BUFFER, 0, 0, 507) \
    each(FIXED_FD_INSTALL, "fixed_fd_install", FIXED_FD_INSTALL, NONE, FILE | BITS, 0, 0, 608) \
    each(PIPE, "pipe", PIPE, TWO_FILES, FD | BITS | INDEX, 0, 0, 616) \
    each(SOCKET_COMMAND, "socket_command", URING_CMD, NONE, FILE | OFF, 0, 0, 607) \
    each(GETSOCKOPT, "getsockopt", URING_CMD, OPTION_GET, FILE | OFF | ADDR | LEN, 0, 0, 607) \
    each(SETSOCKOPT, "setsockopt", URING_CMD, OPTION_SET, FILE | OFF | ADDR, 0, 0, 607) \
    each(URING_CMD, "uring_cmd", URING_CMD, COMMAND, FILE | OFF | ADDR | BITS, 0, 0, 519)

enum udpring_op {
#define UDPRING_OPERATION_NUMBER(symbol, name, opcode, memory, takes, prio, bits, since) UDPRING_OP_##symbol,
    UDPRING_OPERATIONS(UDPRING_OPERATION_NUMBER)
    UDPRING_OP_COUNT
};

struct udpring_operation_row {
    const char *name;
    uint32_t opcode, since;        /* since: 601 is Linux 6.1 */
    int32_t registered_files;      /* 1: takes FIXED_FILE */
    int32_t skips;                 /* 1: takes SKIP_SUCCESS, because it owns no memory and its errors have completions */
    int32_t breaks;                /* 1: an error cancels the operations that are linked behind it */
};
/* 0, or -ENOENT. */
int32_t udpring_operation_row(uint32_t operation, struct udpring_operation_row *out);

/* The kernel's bits that Python uses. abi_check.c asserts that they equal those of kernel.h. */
enum udpring_sqe_flag {
    UDPRING_SQE_FIXED_FILE = 1,
    UDPRING_SQE_DRAIN = 2,
    UDPRING_SQE_LINK = 4,
    UDPRING_SQE_HARDLINK = 8,
    UDPRING_SQE_ASYNC = 16,
    UDPRING_SQE_SKIP_SUCCESS = 64
};
enum udpring_cqe_flag {
    UDPRING_CQE_BUFFER = 1,
    UDPRING_CQE_MORE = 2,
    UDPRING_CQE_NOTIF = 8,
    UDPRING_CQE_32 = 32768
};
enum udpring_cancel_flag {
    UDPRING_CANCEL_ALL = 1,
    UDPRING_CANCEL_FD = 2,
    UDPRING_CANCEL_ANY = 4,
    UDPRING_CANCEL_FD_FIXED = 8,
    UDPRING_CANCEL_OP = 32
};
enum udpring_timeout_flag {
    UDPRING_TIMEOUT_ABS = 1,
    UDPRING_TIMEOUT_BOOTTIME = 4,
    UDPRING_TIMEOUT_REALTIME = 8,
    UDPRING_TIMEOUT_ETIME_SUCCESS = 32,
    UDPRING_TIMEOUT_MULTISHOT = 64
};
enum udpring_poll_flag {
    UDPRING_POLL_UPDATE_EVENTS = 2
};
enum udpring_rw_flag {
    UDPRING_RW_HIPRI = 1,
    UDPRING_RW_DSYNC = 2,
    UDPRING_RW_SYNC = 4,
    UDPRING_RW_NOWAIT = 8,
    UDPRING_RW_APPEND = 16,
    UDPRING_RW_NOAPPEND = 32,
    UDPRING_RW_ATOMIC = 64,
    UDPRING_RW_DONTCACHE = 128,
    UDPRING_RW_NOSIGNAL = 256
};
enum udpring_fsync_flag {
    UDPRING_FSYNC_DATASYNC = 1
};
enum udpring_recvsend_flag {
    UDPRING_RECVSEND_POLL_FIRST = 1,
    UDPRING_SEND_ZC_REPORT_USAGE = 8,
    UDPRING_RECVSEND_BUNDLE = 16
};
enum udpring_socket_command {
    UDPRING_SOCKET_SIOCINQ = 0,
    UDPRING_SOCKET_SIOCOUTQ = 1,
    UDPRING_SOCKET_GETSOCKOPT = 2,
    UDPRING_SOCKET_SETSOCKOPT = 3
};
enum udpring_nop_flag {
    UDPRING_NOP_INJECT_RESULT = 1
};
enum udpring_setup_flag {
    UDPRING_SETUP_SQPOLL = 2,
    UDPRING_SETUP_SQ_AFF = 4,
    UDPRING_SETUP_CQSIZE = 8,
    UDPRING_SETUP_CLAMP = 16,
    UDPRING_SETUP_ATTACH_WQ = 32,
    UDPRING_SETUP_R_DISABLED = 64,
    UDPRING_SETUP_SUBMIT_ALL = 128,
    UDPRING_SETUP_COOP_TASKRUN = 256,
    UDPRING_SETUP_TASKRUN_FLAG = 512,
    UDPRING_SETUP_SQE128 = 1024,
    UDPRING_SETUP_CQE32 = 2048,
    UDPRING_SETUP_SINGLE_ISSUER = 4096,
    UDPRING_SETUP_DEFER_TASKRUN = 8192,
    UDPRING_SETUP_NO_SQARRAY = 65536,
    UDPRING_SETUP_CQE_MIXED = 262144
};
enum udpring_kind {
    UDPRING_KIND_PYTHON = 2,
    UDPRING_KIND_SILENT = 6,
    UDPRING_KIND_MESSAGE = 7
};

#define UDPRING_OPERATION_BYTES_MAX 0x40000000u   /* payload of one operation */
#define UDPRING_CONTROL_BYTES_MAX 65536u
#define UDPRING_VECTOR_MAX 1024u                  /* buffers of one operation (IOV_MAX) */

/* Queueing. Arguments have the names of the SQE's fields. Those that the operation does not take must be 0.
 *   flags   IOSQE_* except BUFFER_SELECT. CQE_SKIP_SUCCESS only for operations that own no memory
 *   extra   ioprio | buf_index or buf_group << 16 | file_index or its alias << 32
 *   memory, size   what the operation reads or writes. pin 0: it is copied before the call returns (or the kernel writes to
 *           memory of the ring, and the completion shows it)
 *   pin     not 0: the kernel uses `memory` itself. The caller keeps it until udpring_ring_released() has returned the pin as often
 *           as operations were queued with it
 * Returns the user_data of the operation (> 0), or -errno with the cause in udpring_ring_why(). -ENOBUFS: all slots are busy.
 * -E2BIG: a chain of linked operations does not fit into the submission queue. -EAGAIN: the kernel takes no entry. -EINVAL,
 * -ERANGE: the arguments. */
int64_t udpring_ring_put(struct udpring_ring *ring, uint32_t operation, uint32_t flags, int32_t fd, uint64_t off, uint64_t addr,
                         uint32_t len, uint32_t op_flags, uint64_t extra, const uint8_t *memory, uint64_t size, uint64_t pin);
/* The same for operations with a msghdr or a command. len: bytes to receive, with memory NULL. control: control messages to send,
 * or NULL and control_size bytes of room for them. */
int64_t udpring_ring_put_message(struct udpring_ring *ring, uint32_t operation, uint32_t flags, int32_t fd, uint64_t off,
                                 uint64_t addr, uint32_t len, uint32_t op_flags, uint64_t extra, const uint8_t *memory, uint64_t size,
                                 uint64_t pin, const uint8_t *name, uint32_t name_size, const uint8_t *control, uint32_t control_size);
/* The same for operations on several pieces of pinned memory. */
int64_t udpring_ring_put_vector(struct udpring_ring *ring, uint32_t operation, uint32_t flags, int32_t fd, uint64_t off,
                                uint32_t op_flags, uint64_t extra, uint8_t *const *memory, const uint64_t *sizes, uint32_t count,
                                uint64_t pin);
/* Many operations of one kind in one call, with the arguments of udpring_ring_put(). A column is an array of `count` values. NULL:
 * the single value beside it is everyone's. The memory of operation i is `length` or lengths[i] bytes at starts[i], or at i x length
 * without starts. */
struct udpring_columns {
    uint32_t operation, flags;
    uint64_t extra;
    uint32_t count;
    int32_t file;
    uint32_t length, op_flags;
    uint64_t off, addr;
    const int32_t *files;
    const uint32_t *lengths;
    const uint64_t *offs, *starts;
    uint8_t *memory;               /* pinned, or NULL */
    uint64_t size;
    uint64_t *tickets;             /* gets their user_data */
};
/* How many were queued: fewer than count when slots or entries ran out. Or -errno, with none queued. */
int32_t udpring_ring_put_many(struct udpring_ring *ring, const struct udpring_columns *columns, uint64_t pin);
const char *udpring_ring_why(struct udpring_ring *ring);   /* of the last put that failed. Empty: the errno says it */
/* The pins of operations that ended or were retracted since the last call, with the number of operations. At most
 * UDPRING_HARVEST_MAX of them. */
int32_t udpring_ring_released(struct udpring_ring *ring, uint64_t *pins, uint32_t *counts);
/* How many operations that are queued or in flight use the memory of a pin. Looks at all slots. */
int32_t udpring_ring_pinned(const struct udpring_ring *ring, uint64_t pin);
/* Submits if necessary, so that n more entries can be queued, and linked, without another submit. 0, -E2BIG, -EAGAIN. */
int32_t udpring_ring_reserve(struct udpring_ring *ring, uint32_t n, struct udpring_reason *why);
/* Takes back the newest n entries that are not submitted, with their slots. Returns how many: at most UDPRING_HARVEST_MAX. */
int32_t udpring_ring_retract(struct udpring_ring *ring, uint32_t n);
int32_t udpring_ring_submit(struct udpring_ring *ring);   /* how many the kernel took, or -errno */
/* Submits, then waits for `want` completions or timeout_ns (negative none, 0 poll): 0, -ETIME, -EINTR, -errno. */
int32_t udpring_ring_wait(struct udpring_ring *ring, uint32_t want, int64_t timeout_ns);

#define UDPRING_HARVEST_MAX 256
struct udpring_completion {
    uint64_t user_data;
    int32_t result;          /* >= 0, or -errno */
    uint32_t flags;          /* IORING_CQE_F_* */
    const uint8_t *data;     /* the bytes read or received. NULL: none. Valid until the next harvest */
    const uint8_t *name, *control;
    uint32_t length, name_length, control_length;
    uint32_t message_flags;  /* RECVMSG: MSG_TRUNC, MSG_CTRUNC, ... */
    uint32_t expired;        /* 1: a timer that ran out: its -ETIME is no failure */
    uint32_t lent, group;    /* of a group with views: what udpring_ring_claim() takes, and the group. Else 0 */
    uint64_t extra[2];       /* of a completion of 32 bytes (CQE32, CQE_MIXED): the second half */
};
/* Returns up to max (at most UDPRING_HARVEST_MAX) completions. Settles those of the previous call first. Does not enter the
 * kernel. */
int32_t udpring_ring_harvest(struct udpring_ring *ring, struct udpring_completion *out, uint32_t max);
/* The same completions, up to max, without taking them. Their pointers are valid until the next harvest. */
int32_t udpring_ring_peek(struct udpring_ring *ring, struct udpring_completion *out, uint32_t max);
/* Keeps a lent buffer of the last harvest from returning to its group, until udpring_ring_recycle(). */
void udpring_ring_claim(struct udpring_ring *ring, uint32_t lent);
/* Returns claimed buffers to their group, each once, with one store. 0, -ENOENT: no such group. */
int32_t udpring_ring_recycle(struct udpring_ring *ring, uint32_t group, const uint16_t *ids, uint32_t count);
/* Whether the operation with this user_data is queued or in flight. Stale: 0. */
int32_t udpring_ring_holds(const struct udpring_ring *ring, uint64_t user_data);

/* The numbers of harvested completions as columns. shapes: whether a completion has no more than these numbers (PLAIN), or
 * also data (DATA), or more (FULL). */
#define UDPRING_SHAPE_PLAIN 0
#define UDPRING_SHAPE_DATA 1
#define UDPRING_SHAPE_FULL 2
#define UDPRING_SHAPE_VIEW 3     /* its buffer can be claimed */
void udpring_completions_split(const struct udpring_completion *completions, uint32_t count, uint64_t *tickets, int32_t *results,
                               uint32_t *flags, uint8_t *shapes);
/* Arrays of `room` values. Owner, thread: the caller. Freed by it, after the call. */
struct udpring_results {
    uint64_t *tickets;
    int32_t *results;
    uint32_t *flags;
    uint32_t room;
};
/* Harvests into columns, without the data. Returns how many. Completions may be left, see udpring_ring_released(). */
int32_t udpring_ring_harvest_columns(struct udpring_ring *ring, const struct udpring_results *out);
/* udpring_ring_wait(), udpring_ring_attend() and udpring_ring_harvest_columns() in one. How many completions, fewer than `want`
 * when the time was up. Or the -errno of the wait, with none taken. */
int32_t udpring_ring_turn(struct udpring_ring *ring, uint32_t want, int64_t timeout_ns, const struct udpring_results *out);

enum udpring_group {
    UDPRING_GROUP_COPIES,          /* completions show its buffers until the next harvest */
    UDPRING_GROUP_VIEWS,           /* its buffers can be claimed */
    UDPRING_GROUP_SENDS,           /* data to send */
    UDPRING_GROUP_LEGACY           /* as COPIES, but operations give the buffers to the kernel */
};
/* Adds a group of provided buffers. count: a power of two unless LEGACY, at most 32768. memory: with VIEWS count x bytes of the
 * caller, kept until the group is removed or the ring drained and closed. Else NULL, and the ring has its own. */
int32_t udpring_ring_provide(struct udpring_ring *ring, uint32_t group, uint32_t count, uint32_t bytes, uint32_t kind,
                             uint8_t *memory, struct udpring_reason *why);
/* -ENOENT: there is none. -EBUSY: an operation that is queued or in flight draws from it, or the kernel has buffers of a LEGACY
 * group. */
int32_t udpring_ring_unprovide(struct udpring_ring *ring, uint32_t group);
/* Of a LEGACY group, for each buffer: 1 if the kernel has it, else 0. Up to max. Returns how many buffers it has. */
int32_t udpring_ring_given(struct udpring_ring *ring, uint32_t group, uint8_t *given, uint32_t max);
/* Copies data into the next buffer of a SENDS group. 0. -ENOBUFS: all buffers wait to be sent. -EMSGSIZE: none, or more than a
 * buffer holds. */
int32_t udpring_ring_fill(struct udpring_ring *ring, uint32_t group, const uint8_t *memory, uint64_t size);
int32_t udpring_ring_unsent(struct udpring_ring *ring, uint32_t group);   /* buffers that are not known to be sent */
/* fds NULL: a sparse table. */
int32_t udpring_ring_files(struct udpring_ring *ring, const int32_t *fds, uint32_t count);
int32_t udpring_ring_files_update(struct udpring_ring *ring, uint32_t offset, const int32_t *fds, uint32_t count);
/* The program's own eventfd. -1: unregister. -EBUSY: there is one already. */
int32_t udpring_ring_eventfd(struct udpring_ring *ring, int32_t fd);
/* The caller keeps the memory until the ring is closed and drained, or the buffers are unregistered and no operation of their
 * time is left (fixed_oldest). memory NULL: a table of empty places. */
int32_t udpring_ring_buffers(struct udpring_ring *ring, uint8_t *const *memory, const uint64_t *lengths, uint32_t count);
int32_t udpring_ring_buffers_clear(struct udpring_ring *ring);
/* Changes one place. NULL empties it. 1, or -errno. */
int32_t udpring_ring_buffer_update(struct udpring_ring *ring, uint32_t index, uint8_t *memory, uint64_t length);
/* Buffers were taken out of the table. Returns the number of this change: their memory may be freed when fixed_oldest is above
 * it, because all operations that could use them have ended by then. */
uint64_t udpring_ring_fixed_retire(struct udpring_ring *ring);
uint64_t udpring_ring_fixed_oldest(const struct udpring_ring *ring);
/* Busy polling of network queues in waits, for so many microseconds (6.9). Negative: off. */
int32_t udpring_ring_napi(struct udpring_ring *ring, int64_t busy_poll_us, int32_t prefer);
/* Changes the sizes of the queues, which keep their entries (6.13, with DEFER_TASKRUN). Submits first. -EINVAL: not possible
 * here. -EOVERFLOW: more completions wait than the new queue holds. -ENOTRECOVERABLE: the new queues could not be mapped, and
 * the ring is closed. */
int32_t udpring_ring_resize(struct udpring_ring *ring, uint32_t entries, uint32_t cq_entries);
int32_t udpring_ring_files_clear(struct udpring_ring *ring);
/* The most io-wq threads, bounded and unbounded. 0: no change. Returns the former ones in place. */
int32_t udpring_ring_workers(struct udpring_ring *ring, uint32_t *limits);

uint64_t udpring_graveyard_bytes(void);    /* of the whole process */
uint64_t udpring_graveyard_blocks(void);

/* ---- the features of this host's io_uring, found by trying them ---- */
/* The numbers and the names (probe.c) both come from this list. */
#define UDPRING_FEATURES(each) \
    each(RING, "ring")                           /* a ring can be opened and entered */ \
    each(DEFER_TASKRUN, "defer_taskrun")         /* task work runs only on request */ \
    each(TIMEOUT, "timeout")                     /* waits end on time */ \
    each(RECVMSG, "recvmsg") \
    each(SENDMSG, "sendmsg") \
    each(BUFFER_RING, "buffer_ring") \
    each(RECVMSG_MULTISHOT, "recvmsg_multishot") \
    each(READ_MULTISHOT, "read_multishot") \
    each(CANCEL_ANY, "cancel_any") \
    each(MSG_RING, "msg_ring") \
    each(NOP_INJECT, "nop_inject") \
    each(DISABLED, "disabled")                   /* a ring that is enabled by its owner */ \
    each(ATTACH, "attach") \
    each(IOWQ_WORKERS, "iowq_workers") \
    each(SQ_POLL, "sq_poll")                     /* a thread of the kernel submits */ \
    each(BIG_SQE, "big_sqe") \
    each(BIG_CQE, "big_cqe") \
    each(MIXED_CQE, "mixed_cqe")                 /* completions of 16 and of 32 bytes */ \
    each(NAPI, "napi")                           /* busy polling */ \
    each(RESIZE, "resize")                       /* of the queues */ \
    each(SEND_ZC, "send_zc")                     /* code: UDPRING_ZC_* */ \
    each(SENDMSG_ZC, "sendmsg_zc")               /* of a train (UDP_SEGMENT). code: UDPRING_ZC_* */

enum udpring_feature {
#define UDPRING_FEATURE_NUMBER(symbol, name) UDPRING_FEATURE_##symbol,
    UDPRING_FEATURES(UDPRING_FEATURE_NUMBER)
    UDPRING_FEATURE_COUNT
};
#define UDPRING_ZC_UNSUPPORTED 0   /* the kernel refuses it */
#define UDPRING_ZC_BROKEN 1        /* the notification never arrives, or is wrong */
#define UDPRING_ZC_COPIES 2        /* works, but the kernel copies the data after all (always so on loopback) */
#define UDPRING_ZC_TRUE 3
#define UDPRING_ZC_OFF 4           /* of a send ring: not requested */
#define UDPRING_ZC_UNTRIED 5       /* of a send ring: available, but no payload was long enough yet */
struct udpring_feature_result {
    int32_t works;                 /* 1, 0 */
    int32_t code;                  /* 0, or -errno of the failed call. SEND_ZC, SENDMSG_ZC: UDPRING_ZC_* */
    struct udpring_reason reason;  /* the observation, or the cause of the failure and the cure */
};
/* Writes 1 for each IORING_OP_* that the kernel knows (IORING_REGISTER_PROBE), 0 for the others. Up to max. Returns how many
 * numbers the kernel assigned, or -errno. */
int32_t udpring_uring_operations(uint8_t *known, uint32_t max);
const char *udpring_feature_name(int32_t which);   /* "ring", ...; NULL past the end */
/* Fills all UDPRING_FEATURE_COUNT results. Takes some milliseconds. A wait that hangs ends after 1 s. Uses loopback only. */
void udpring_uring_probe(struct udpring_feature_result *results);
/* UDPRING_ZC_* of sendmsg_zc, with the observation in `why`. Tried once a process (at most 2 s if a notification never
 * arrives). */
int32_t udpring_zero_copy(struct udpring_reason *why);
#endif
