/* The interface of the ring layer to Python (udpring/uring): a general ring whose operations own their memory, and the
 * probe. */
#ifndef UDPRING_URING_ABI_H
#define UDPRING_URING_ABI_H
#include "../abi.h"

/* ---- a ring with owned operations ----
 * Flow: udpring_ring_queue() copies all that the kernel may read into an operation slot. udpring_ring_wait() submits and waits.
 * udpring_ring_harvest() returns completions with pointers into the slots, and frees the slots of those before.
 * Owner: the caller of open. Thread: the one that opened (or enabled) it; others get -EXDEV. Freed by udpring_ring_free(). */
struct udpring_ring;

#define UDPRING_SLOTS_MAX 1048576u

struct udpring_ring_options {
    uint32_t entries;        /* submission queue; 0 = 256 */
    uint32_t cq_entries;     /* completion queue; 0 = 4 x entries */
    uint32_t slots;          /* operations at a time; 0 = the size of the completion queue; at most UDPRING_SLOTS_MAX */
    uint32_t flags_deny;     /* IORING_SETUP_* bits not to request */
    int32_t disabled;        /* 1: the thread that calls udpring_ring_enable() becomes the owner */
};

struct udpring_ring_info {
    uint32_t sq_entries, cq_entries, slots;
    uint32_t setup_flags, features;
    uint32_t halvings;       /* number of times that ENOMEM halved the entries or the slots */
    int32_t iowq_error;      /* of the bound on kernel workers: 0 or -errno */
    int32_t owner_tid;
    uint32_t queued;         /* not submitted yet */
    uint32_t ready;          /* completions to harvest */
    uint32_t busy_slots;     /* queued, in flight or harvested last */
    int64_t in_flight;       /* submitted, without their terminal completion */
    uint64_t stale;          /* completions that matched no operation */
    uint32_t lost;           /* completions that the kernel dropped because it had no memory */
};

int32_t udpring_ring_open(struct udpring_ring **ring, const struct udpring_ring_options *options, struct udpring_reason *why);
int32_t udpring_ring_enable(struct udpring_ring *ring);
/* 0; > 0: this many operations did not end within 2 s, and their memory went to the graveyard; -EXDEV: the caller is not the
 * owner, and the owner thread still runs; nothing was done. Idempotent. */
int32_t udpring_ring_close(struct udpring_ring *ring);
/* Call after close. The memory of a ring that is not closed is leaked and counted. */
void udpring_ring_free(struct udpring_ring *ring);
int32_t udpring_ring_fd(const struct udpring_ring *ring);   /* any thread; -EBADF after close */
/* An eventfd of the ring, made at the first call, that is readable from a completion or from work that will produce one until
 * udpring_ring_attend(). -EBUSY: the program registered its own. */
int32_t udpring_ring_fileno(struct udpring_ring *ring);
/* Runs deferred work and fetches overflowed completions, if there are any, and clears that eventfd. Does not wait. */
int32_t udpring_ring_attend(struct udpring_ring *ring);
/* Makes the eventfd readable again: completions were left. */
void udpring_ring_rouse(struct udpring_ring *ring);
int32_t udpring_ring_info(struct udpring_ring *ring, struct udpring_ring_info *out);

/* The operations that can be queued; the values are the kernel's IORING_OP_*. */
enum udpring_op {
    UDPRING_OP_NOP = 0,
    UDPRING_OP_READ_FIXED = 4,
    UDPRING_OP_WRITE_FIXED = 5,
    UDPRING_OP_POLL_ADD = 6,
    UDPRING_OP_POLL_REMOVE = 7,
    UDPRING_OP_SENDMSG = 9,
    UDPRING_OP_RECVMSG = 10,
    UDPRING_OP_TIMEOUT = 11,
    UDPRING_OP_TIMEOUT_REMOVE = 12,
    UDPRING_OP_ASYNC_CANCEL = 14,
    UDPRING_OP_LINK_TIMEOUT = 15,
    UDPRING_OP_READ = 22,
    UDPRING_OP_WRITE = 23,
    UDPRING_OP_MSG_RING = 40,
    UDPRING_OP_READ_MULTISHOT = 49
};

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
    UDPRING_CQE_NOTIF = 8
};
enum udpring_cancel_flag {
    UDPRING_CANCEL_ALL = 1,
    UDPRING_CANCEL_FD = 2,
    UDPRING_CANCEL_ANY = 4
};
enum udpring_timeout_flag {
    UDPRING_TIMEOUT_ABS = 1,
    UDPRING_TIMEOUT_ETIME_SUCCESS = 32,
    UDPRING_TIMEOUT_MULTISHOT = 64
};
enum udpring_nop_flag {
    UDPRING_NOP_INJECT_RESULT = 1
};
enum udpring_setup_flag {
    UDPRING_SETUP_CQSIZE = 8,
    UDPRING_SETUP_CLAMP = 16,
    UDPRING_SETUP_R_DISABLED = 64,
    UDPRING_SETUP_SUBMIT_ALL = 128,
    UDPRING_SETUP_COOP_TASKRUN = 256,
    UDPRING_SETUP_TASKRUN_FLAG = 512,
    UDPRING_SETUP_SINGLE_ISSUER = 4096,
    UDPRING_SETUP_DEFER_TASKRUN = 8192,
    UDPRING_SETUP_NO_SQARRAY = 65536
};
enum udpring_kind {
    UDPRING_KIND_PYTHON = 2,
    UDPRING_KIND_SILENT = 6,
    UDPRING_KIND_MESSAGE = 7
};

#define UDPRING_OPERATION_BYTES_MAX 0x40000000u   /* payload of one operation */
#define UDPRING_CONTROL_BYTES_MAX 65536u

/* One operation to queue. The call copies the data behind each pointer before it returns. */
struct udpring_operation {
    uint32_t opcode;         /* UDPRING_OP_* */
    uint32_t flags;          /* IOSQE_* except BUFFER_SELECT; CQE_SKIP_SUCCESS only for operations that own no memory */
    int32_t fd;              /* or an index, with IOSQE_FIXED_FILE */
    uint32_t op_flags;       /* poll events, msg_flags, timeout flags, cancel flags, nop flags, msg_ring flags */
    uint64_t offset;         /* in the file; ~0 = current. TIMEOUT: completions to count. POLL_ADD: 1 = multishot */
    uint64_t target;         /* user_data to cancel or remove; the message of MSG_RING (56 bits); TIMEOUT: nanoseconds */
    uint32_t length;         /* bytes to receive or read. NOP: the result to inject. MSG_RING: the result to deliver */
    uint32_t group;          /* READ_MULTISHOT: buffer group. *_FIXED: index of the registered buffer */
    uint32_t control_room;   /* RECVMSG: bytes for control messages */
    uint32_t payload_length, name_length, control_length;
    const uint8_t *payload;  /* WRITE, SENDMSG */
    const uint8_t *name;     /* SENDMSG: struct sockaddr, or NULL */
    const uint8_t *control;  /* SENDMSG: control messages, or NULL */
};

/* The user_data of the queued operation (> 0), or -errno. -ENOBUFS: all slots are busy; -E2BIG: a chain of linked operations
 * does not fit into the submission queue; -EAGAIN: the kernel takes no entry; -EINVAL, -ERANGE with the field in `why`. */
int64_t udpring_ring_queue(struct udpring_ring *ring, const struct udpring_operation *operation, struct udpring_reason *why);
/* Submits if necessary, so that n more entries can be queued, and linked, without another submit. 0, -E2BIG, -EAGAIN. */
int32_t udpring_ring_reserve(struct udpring_ring *ring, uint32_t n, struct udpring_reason *why);
/* Takes back the newest n entries that are not submitted, with their slots. Returns how many. */
int32_t udpring_ring_retract(struct udpring_ring *ring, uint32_t n);
int32_t udpring_ring_submit(struct udpring_ring *ring);   /* how many the kernel took, or -errno */
/* Submits, then waits for `want` completions or timeout_ns (negative none, 0 poll): 0, -ETIME, -EINTR, -errno. */
int32_t udpring_ring_wait(struct udpring_ring *ring, uint32_t want, int64_t timeout_ns);

#define UDPRING_HARVEST_MAX 256
struct udpring_completion {
    uint64_t user_data;
    int32_t result;          /* >= 0, or -errno */
    uint32_t flags;          /* IORING_CQE_F_* */
    const uint8_t *data;     /* the bytes read or received; NULL: none. Valid until the next harvest */
    const uint8_t *name, *control;
    uint32_t length, name_length, control_length;
    uint32_t message_flags;  /* RECVMSG: MSG_TRUNC, MSG_CTRUNC, ... */
    uint32_t expired;        /* 1: a timer that ran out: its -ETIME is no failure */
};
/* Returns up to max (at most UDPRING_HARVEST_MAX) completions. Settles those of the previous call first. Does not enter the
 * kernel. */
int32_t udpring_ring_harvest(struct udpring_ring *ring, struct udpring_completion *out, uint32_t max);

/* Adds a group of provided buffers for multishot operations. count: a power of two, at most 32768. */
int32_t udpring_ring_provide(struct udpring_ring *ring, uint32_t group, uint32_t count, uint32_t bytes,
                             struct udpring_reason *why);
/* fds NULL: a sparse table. */
int32_t udpring_ring_files(struct udpring_ring *ring, const int32_t *fds, uint32_t count);
int32_t udpring_ring_files_update(struct udpring_ring *ring, uint32_t offset, const int32_t *fds, uint32_t count);
/* The program's own eventfd. -1: unregister. -EBUSY: there is one already. */
int32_t udpring_ring_eventfd(struct udpring_ring *ring, int32_t fd);
/* The caller keeps the memory until the ring is closed and drained, or the buffers are unregistered. */
int32_t udpring_ring_buffers(struct udpring_ring *ring, uint8_t *const *memory, const uint64_t *lengths, uint32_t count);
int32_t udpring_ring_buffers_clear(struct udpring_ring *ring);
int32_t udpring_ring_files_clear(struct udpring_ring *ring);

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
    each(SEND_ZC, "send_zc")                     /* code: UDPRING_ZC_* */ \
    each(SENDMSG_ZC, "sendmsg_zc")               /* of a train (UDP_SEGMENT); code: UDPRING_ZC_* */

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
    int32_t code;                  /* 0, or -errno of the failed call; SEND_ZC, SENDMSG_ZC: UDPRING_ZC_* */
    struct udpring_reason reason;  /* the observation, or the cause of the failure and the cure */
};
const char *udpring_feature_name(int32_t which);   /* "ring", ...; NULL past the end */
/* Fills all UDPRING_FEATURE_COUNT results. Takes some milliseconds. A wait that hangs ends after 1 s. Uses loopback only. */
void udpring_uring_probe(struct udpring_feature_result *results);
/* UDPRING_ZC_* of sendmsg_zc, with the observation in `why`. Tried once a process (at most 2 s if a notification never
 * arrives). */
int32_t udpring_zero_copy(struct udpring_reason *why);
#endif
