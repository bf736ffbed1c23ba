/* The part of the kernel's io_uring ABI that this project uses. It has its own header because distributions ship a
 * <linux/io_uring.h> that is years older than the kernels they run. Names are those of io_uring_setup(2), io_uring_enter(2) and
 * io_uring_register(2). Never include <linux/io_uring.h> together with it. The kernel guarantees the layouts to user space. The
 * asserts at the end check them. */
#ifndef UDPRING_URING_KERNEL_H
#define UDPRING_URING_KERNEL_H
#include <linux/time_types.h>
#include <stddef.h>
#include <stdint.h>

/* ---- submission queue entry ---- */
struct io_uring_sqe {
    uint8_t opcode;
    uint8_t flags;                 /* IOSQE_* */
    uint16_t ioprio;               /* per-operation flags for send, recv and accept */
    int32_t fd;
    union {
        uint64_t off;
        uint64_t addr2;
        struct {
            uint32_t cmd_op;
            uint32_t pad1;
        };
    };
    union {
        uint64_t addr;
        struct {
            uint32_t level;
            uint32_t optname;
        };
    };
    uint32_t len;
    union {
        uint32_t rw_flags;
        uint16_t poll_events;
        uint32_t poll32_events;    /* the two halves swapped on big-endian machines */
        uint32_t msg_flags;
        uint32_t timeout_flags;
        uint32_t accept_flags;
        uint32_t cancel_flags;
        uint32_t msg_ring_flags;
        uint32_t uring_cmd_flags;
        uint32_t nop_flags;
        uint32_t op_flags;
    };
    uint64_t user_data;
    union {
        uint16_t buf_index;
        uint16_t buf_group;
    } __attribute__((packed));
    uint16_t personality;
    union {
        int32_t splice_fd_in;
        uint32_t file_index;
        uint32_t optlen;
        struct {
            uint16_t addr_len;
            uint16_t pad3;
        };
    };
    union {
        struct {
            uint64_t addr3;
            uint64_t pad2;
        };
        uint64_t optval;
    };
};

#define IOSQE_FIXED_FILE (1u << 0)
#define IOSQE_IO_DRAIN (1u << 1)
#define IOSQE_IO_LINK (1u << 2)
#define IOSQE_IO_HARDLINK (1u << 3)
#define IOSQE_ASYNC (1u << 4)
#define IOSQE_BUFFER_SELECT (1u << 5)
#define IOSQE_CQE_SKIP_SUCCESS (1u << 6)

enum io_uring_op {
    IORING_OP_NOP = 0,
    IORING_OP_READV = 1,
    IORING_OP_WRITEV = 2,
    IORING_OP_FSYNC = 3,
    IORING_OP_READ_FIXED = 4,
    IORING_OP_WRITE_FIXED = 5,
    IORING_OP_POLL_ADD = 6,
    IORING_OP_POLL_REMOVE = 7,
    IORING_OP_SENDMSG = 9,
    IORING_OP_RECVMSG = 10,
    IORING_OP_TIMEOUT = 11,
    IORING_OP_TIMEOUT_REMOVE = 12,
    IORING_OP_ACCEPT = 13,
    IORING_OP_ASYNC_CANCEL = 14,
    IORING_OP_LINK_TIMEOUT = 15,
    IORING_OP_CONNECT = 16,
    IORING_OP_FALLOCATE = 17,
    IORING_OP_CLOSE = 19,
    IORING_OP_FILES_UPDATE = 20,
    IORING_OP_STATX = 21,
    IORING_OP_READ = 22,
    IORING_OP_WRITE = 23,
    IORING_OP_FADVISE = 24,
    IORING_OP_MADVISE = 25,
    IORING_OP_SEND = 26,
    IORING_OP_RECV = 27,
    IORING_OP_OPENAT2 = 28,
    IORING_OP_EPOLL_CTL = 29,
    IORING_OP_SPLICE = 30,
    IORING_OP_PROVIDE_BUFFERS = 31,
    IORING_OP_REMOVE_BUFFERS = 32,
    IORING_OP_TEE = 33,
    IORING_OP_SHUTDOWN = 34,
    IORING_OP_RENAMEAT = 35,
    IORING_OP_UNLINKAT = 36,
    IORING_OP_MKDIRAT = 37,
    IORING_OP_SYMLINKAT = 38,
    IORING_OP_LINKAT = 39,
    IORING_OP_MSG_RING = 40,
    IORING_OP_FSETXATTR = 41,
    IORING_OP_SETXATTR = 42,
    IORING_OP_FGETXATTR = 43,
    IORING_OP_GETXATTR = 44,
    IORING_OP_SOCKET = 45,
    IORING_OP_URING_CMD = 46,
    IORING_OP_SEND_ZC = 47,
    IORING_OP_SENDMSG_ZC = 48,
    IORING_OP_READ_MULTISHOT = 49,
    IORING_OP_WAITID = 50,
    IORING_OP_FUTEX_WAIT = 51,
    IORING_OP_FUTEX_WAKE = 52,
    IORING_OP_FUTEX_WAITV = 53,
    IORING_OP_FIXED_FD_INSTALL = 54,
    IORING_OP_FTRUNCATE = 55,
    IORING_OP_BIND = 56,
    IORING_OP_LISTEN = 57,
    IORING_OP_EPOLL_WAIT = 59,
    IORING_OP_PIPE = 62,
};

/* sqe.ioprio of send and recv */
#define IORING_RECVSEND_POLL_FIRST (1u << 0)
#define IORING_RECV_MULTISHOT (1u << 1)
#define IORING_RECVSEND_FIXED_BUF (1u << 2)
#define IORING_SEND_ZC_REPORT_USAGE (1u << 3)
#define IORING_RECVSEND_BUNDLE (1u << 4)

/* sqe.ioprio of accept */
#define IORING_ACCEPT_MULTISHOT (1u << 0)
#define IORING_ACCEPT_DONTWAIT (1u << 1)
#define IORING_ACCEPT_POLL_FIRST (1u << 2)

/* sqe.file_index: the kernel picks a free place of the registered files */
#define IORING_FILE_INDEX_ALLOC UINT32_MAX

/* sqe.rw_flags, of preadv2(2). Older system headers lack some of them. */
#define UR_RWF_HIPRI (1u << 0)
#define UR_RWF_DSYNC (1u << 1)
#define UR_RWF_SYNC (1u << 2)
#define UR_RWF_NOWAIT (1u << 3)
#define UR_RWF_APPEND (1u << 4)
#define UR_RWF_NOAPPEND (1u << 5)      /* 6.9 */
#define UR_RWF_ATOMIC (1u << 6)        /* 6.11 */
#define UR_RWF_DONTCACHE (1u << 7)     /* 6.14 */
#define UR_RWF_NOSIGNAL (1u << 8)      /* 6.18 */

/* sqe.fsync_flags */
#define IORING_FSYNC_DATASYNC (1u << 0)

/* sqe.cmd_op on sockets */
enum io_uring_socket_op {
    SOCKET_URING_OP_SIOCINQ = 0,
    SOCKET_URING_OP_SIOCOUTQ = 1,
    SOCKET_URING_OP_GETSOCKOPT = 2,
    SOCKET_URING_OP_SETSOCKOPT = 3,
};

/* cqe.res of a zero-copy notification with REPORT_USAGE: the kernel copied the data after all */
#define IORING_NOTIF_USAGE_ZC_COPIED (1u << 31)

/* sqe.nop_flags (6.11) */
#define IORING_NOP_INJECT_RESULT (1u << 0)
#define IORING_NOP_FILE (1u << 1)
#define IORING_NOP_FIXED_FILE (1u << 2)
#define IORING_NOP_FIXED_BUFFER (1u << 3)
#define IORING_NOP_TW (1u << 4)

/* sqe.timeout_flags */
#define IORING_TIMEOUT_ABS (1u << 0)
#define IORING_TIMEOUT_UPDATE (1u << 1)
#define IORING_TIMEOUT_BOOTTIME (1u << 2)
#define IORING_TIMEOUT_REALTIME (1u << 3)
#define IORING_LINK_TIMEOUT_UPDATE (1u << 4)
#define IORING_TIMEOUT_ETIME_SUCCESS (1u << 5)
#define IORING_TIMEOUT_MULTISHOT (1u << 6)

/* sqe.len of POLL_ADD */
#define IORING_POLL_ADD_MULTI (1u << 0)
#define IORING_POLL_UPDATE_EVENTS (1u << 1)
#define IORING_POLL_UPDATE_USER_DATA (1u << 2)
#define IORING_POLL_ADD_LEVEL (1u << 3)

/* sqe.cancel_flags */
#define IORING_ASYNC_CANCEL_ALL (1u << 0)
#define IORING_ASYNC_CANCEL_FD (1u << 1)
#define IORING_ASYNC_CANCEL_ANY (1u << 2)
#define IORING_ASYNC_CANCEL_FD_FIXED (1u << 3)
#define IORING_ASYNC_CANCEL_USERDATA (1u << 4)
#define IORING_ASYNC_CANCEL_OP (1u << 5)

/* MSG_RING: sqe.addr holds the command, sqe.msg_ring_flags these */
#define IORING_MSG_DATA 0
#define IORING_MSG_SEND_FD 1
#define IORING_MSG_RING_CQE_SKIP (1u << 0)
#define IORING_MSG_RING_FLAGS_PASS (1u << 1)

/* ---- completion queue entry ---- */
struct io_uring_cqe {
    uint64_t user_data;
    int32_t res;
    uint32_t flags;
};

#define IORING_CQE_F_BUFFER (1u << 0)
#define IORING_CQE_F_MORE (1u << 1)
#define IORING_CQE_F_SOCK_NONEMPTY (1u << 2)
#define IORING_CQE_F_NOTIF (1u << 3)
#define IORING_CQE_F_BUF_MORE (1u << 4)
#define IORING_CQE_F_SKIP (1u << 5)        /* with CQE_MIXED: no completion, fills the end of the queue */
#define IORING_CQE_F_32 (1u << 15)         /* with CQE_MIXED: it has 32 bytes */
#define IORING_CQE_BUFFER_SHIFT 16

/* ---- io_uring_setup(2) ---- */
struct io_sqring_offsets {
    uint32_t head, tail, ring_mask, ring_entries, flags, dropped, array, resv1;
    uint64_t user_addr;
};

struct io_cqring_offsets {
    uint32_t head, tail, ring_mask, ring_entries, overflow, cqes, flags, resv1;
    uint64_t user_addr;
};

struct io_uring_params {
    uint32_t sq_entries, cq_entries, flags, sq_thread_cpu, sq_thread_idle, features, wq_fd;
    uint32_t resv[3];
    struct io_sqring_offsets sq_off;
    struct io_cqring_offsets cq_off;
};

#define IORING_SETUP_IOPOLL (1u << 0)
#define IORING_SETUP_SQPOLL (1u << 1)
#define IORING_SETUP_SQ_AFF (1u << 2)
#define IORING_SETUP_CQSIZE (1u << 3)
#define IORING_SETUP_CLAMP (1u << 4)
#define IORING_SETUP_ATTACH_WQ (1u << 5)
#define IORING_SETUP_R_DISABLED (1u << 6)
#define IORING_SETUP_SUBMIT_ALL (1u << 7)
#define IORING_SETUP_COOP_TASKRUN (1u << 8)
#define IORING_SETUP_TASKRUN_FLAG (1u << 9)
#define IORING_SETUP_SQE128 (1u << 10)
#define IORING_SETUP_CQE32 (1u << 11)
#define IORING_SETUP_SINGLE_ISSUER (1u << 12)
#define IORING_SETUP_DEFER_TASKRUN (1u << 13)
#define IORING_SETUP_NO_MMAP (1u << 14)
#define IORING_SETUP_REGISTERED_FD_ONLY (1u << 15)
#define IORING_SETUP_NO_SQARRAY (1u << 16)
#define IORING_SETUP_CQE_MIXED (1u << 18)  /* 6.18 */

#define IORING_FEAT_SINGLE_MMAP (1u << 0)
#define IORING_FEAT_NODROP (1u << 1)
#define IORING_FEAT_SUBMIT_STABLE (1u << 2)
#define IORING_FEAT_RW_CUR_POS (1u << 3)
#define IORING_FEAT_CUR_PERSONALITY (1u << 4)
#define IORING_FEAT_FAST_POLL (1u << 5)
#define IORING_FEAT_POLL_32BITS (1u << 6)
#define IORING_FEAT_SQPOLL_NONFIXED (1u << 7)
#define IORING_FEAT_EXT_ARG (1u << 8)
#define IORING_FEAT_NATIVE_WORKERS (1u << 9)
#define IORING_FEAT_RSRC_TAGS (1u << 10)
#define IORING_FEAT_CQE_SKIP (1u << 11)
#define IORING_FEAT_LINKED_FILE (1u << 12)
#define IORING_FEAT_REG_REG_RING (1u << 13)
#define IORING_FEAT_RECVSEND_BUNDLE (1u << 14)
#define IORING_FEAT_MIN_TIMEOUT (1u << 15)

#define IORING_OFF_SQ_RING 0ull
#define IORING_OFF_CQ_RING 0x8000000ull
#define IORING_OFF_SQES 0x10000000ull

/* *sq_off.flags */
#define IORING_SQ_NEED_WAKEUP (1u << 0)
#define IORING_SQ_CQ_OVERFLOW (1u << 1)
#define IORING_SQ_TASKRUN (1u << 2)
/* *cq_off.flags */
#define IORING_CQ_EVENTFD_DISABLED (1u << 0)

#define IORING_MAX_ENTRIES 32768u
#define IORING_MAX_CQ_ENTRIES (2u * IORING_MAX_ENTRIES)

/* ---- io_uring_enter(2) ---- */
#define IORING_ENTER_GETEVENTS (1u << 0)
#define IORING_ENTER_SQ_WAKEUP (1u << 1)
#define IORING_ENTER_SQ_WAIT (1u << 2)
#define IORING_ENTER_EXT_ARG (1u << 3)
#define IORING_ENTER_REGISTERED_RING (1u << 4)

struct io_uring_getevents_arg {
    uint64_t sigmask;
    uint32_t sigmask_sz;
    uint32_t min_wait_usec;        /* 6.12, IORING_FEAT_MIN_TIMEOUT. Padding before */
    uint64_t ts;
};

/* ---- io_uring_register(2) ---- */
enum io_uring_register_op {
    IORING_REGISTER_BUFFERS = 0,
    IORING_UNREGISTER_BUFFERS = 1,
    IORING_REGISTER_FILES = 2,
    IORING_UNREGISTER_FILES = 3,
    IORING_REGISTER_EVENTFD = 4,
    IORING_UNREGISTER_EVENTFD = 5,
    IORING_REGISTER_FILES_UPDATE = 6,
    IORING_REGISTER_EVENTFD_ASYNC = 7,
    IORING_REGISTER_PROBE = 8,
    IORING_REGISTER_PERSONALITY = 9,
    IORING_UNREGISTER_PERSONALITY = 10,
    IORING_REGISTER_RESTRICTIONS = 11,
    IORING_REGISTER_ENABLE_RINGS = 12,
    IORING_REGISTER_FILES2 = 13,
    IORING_REGISTER_FILES_UPDATE2 = 14,
    IORING_REGISTER_BUFFERS2 = 15,
    IORING_REGISTER_BUFFERS_UPDATE = 16,
    IORING_REGISTER_IOWQ_AFF = 17,
    IORING_UNREGISTER_IOWQ_AFF = 18,
    IORING_REGISTER_IOWQ_MAX_WORKERS = 19,
    IORING_REGISTER_RING_FDS = 20,
    IORING_UNREGISTER_RING_FDS = 21,
    IORING_REGISTER_PBUF_RING = 22,
    IORING_UNREGISTER_PBUF_RING = 23,
    IORING_REGISTER_SYNC_CANCEL = 24,
    IORING_REGISTER_PBUF_STATUS = 26,
    IORING_REGISTER_NAPI = 27,             /* 6.9 */
    IORING_UNREGISTER_NAPI = 28,
    IORING_REGISTER_RESIZE_RINGS = 33,     /* 6.13 */
};

/* A slot of the registered file table that an update does not change */
#define IORING_REGISTER_FILES_SKIP (-2)

struct io_uring_files_update {
    uint32_t offset, resv;
    uint64_t fds;                  /* const int32_t * */
};

/* IORING_REGISTER_BUFFERS_UPDATE: `data` points to iovecs. */
struct io_uring_rsrc_update2 {
    uint32_t offset, resv;
    uint64_t data, tags;
    uint32_t nr, resv2;
};

struct io_uring_napi {
    uint32_t busy_poll_to;         /* microseconds */
    uint8_t prefer_busy_poll;
    uint8_t pad[3];
    uint64_t resv;
};

/* IORING_REGISTER_RESTRICTIONS, 5.10 */
enum io_uring_register_restriction_op {
    IORING_RESTRICTION_REGISTER_OP = 0,
    IORING_RESTRICTION_SQE_OP = 1,
    IORING_RESTRICTION_SQE_FLAGS_ALLOWED = 2,
    IORING_RESTRICTION_SQE_FLAGS_REQUIRED = 3,
};

struct io_uring_restriction {
    uint16_t opcode;               /* IORING_RESTRICTION_* */
    uint8_t allowed;               /* IORING_REGISTER_*, IORING_OP_* or IOSQE_* bits */
    uint8_t resv;
    uint32_t resv2[3];
};

#define IO_URING_OP_SUPPORTED (1u << 0)
struct io_uring_probe_op {
    uint8_t op, resv;
    uint16_t flags;                /* IO_URING_OP_* */
    uint32_t resv2;
};

struct io_uring_probe {
    uint8_t last_op, ops_len;
    uint16_t resv;
    uint32_t resv2[3];
    struct io_uring_probe_op ops[];
};

/* One entry of a provided buffer ring. The ring's tail overlays `resv` of entry 0. */
struct io_uring_buf {
    uint64_t addr;
    uint32_t len;
    uint16_t bid;
    uint16_t resv;
};

#define IOU_PBUF_RING_MMAP 1u
#define IOU_PBUF_RING_INC 2u       /* never use with recvmsg: spurious EFAULT and over-consumption up to 7.1 */
#define IORING_MAX_PBUF_ENTRIES 32768u

struct io_uring_buf_reg {
    uint64_t ring_addr;
    uint32_t ring_entries;
    uint16_t bgid;
    uint16_t flags;
    uint64_t resv[3];
};

struct io_uring_buf_status {
    uint32_t buf_group, head;
    uint32_t resv[8];
};

struct io_uring_sync_cancel_reg {
    uint64_t addr;
    int32_t fd;
    uint32_t flags;
    struct __kernel_timespec timeout;
    uint8_t opcode;
    uint8_t pad[7];
    uint64_t pad2[3];
};

/* The head of each buffer that a multishot recvmsg fills. It is followed by the name area of msg_namelen bytes, the control
 * area of msg_controllen bytes (both as submitted), and the payload. */
struct io_uring_recvmsg_out {
    uint32_t namelen, controllen, payloadlen, flags;
};

_Static_assert(sizeof(struct io_uring_sqe) == 64, "SQE is 64 bytes");
_Static_assert(offsetof(struct io_uring_sqe, ioprio) == 2, "sqe.ioprio");
_Static_assert(offsetof(struct io_uring_sqe, fd) == 4, "sqe.fd");
_Static_assert(offsetof(struct io_uring_sqe, off) == 8, "sqe.off");
_Static_assert(offsetof(struct io_uring_sqe, addr) == 16, "sqe.addr");
_Static_assert(offsetof(struct io_uring_sqe, len) == 24, "sqe.len");
_Static_assert(offsetof(struct io_uring_sqe, op_flags) == 28, "sqe.op_flags");
_Static_assert(offsetof(struct io_uring_sqe, user_data) == 32, "sqe.user_data");
_Static_assert(offsetof(struct io_uring_sqe, buf_group) == 40, "sqe.buf_group");
_Static_assert(offsetof(struct io_uring_sqe, personality) == 42, "sqe.personality");
_Static_assert(offsetof(struct io_uring_sqe, file_index) == 44, "sqe.file_index");
_Static_assert(offsetof(struct io_uring_sqe, addr_len) == 44, "sqe.addr_len");
_Static_assert(offsetof(struct io_uring_sqe, addr3) == 48, "sqe.addr3");
_Static_assert(sizeof(struct io_uring_cqe) == 16, "CQE is 16 bytes");
_Static_assert(offsetof(struct io_uring_cqe, res) == 8, "cqe.res");
_Static_assert(offsetof(struct io_uring_cqe, flags) == 12, "cqe.flags");
_Static_assert(sizeof(struct io_sqring_offsets) == 40, "SQ offsets");
_Static_assert(sizeof(struct io_cqring_offsets) == 40, "CQ offsets");
_Static_assert(sizeof(struct io_uring_params) == 120, "params are 120 bytes");
_Static_assert(offsetof(struct io_uring_params, features) == 20, "params.features");
_Static_assert(offsetof(struct io_uring_params, sq_off) == 40, "params.sq_off");
_Static_assert(offsetof(struct io_uring_params, cq_off) == 80, "params.cq_off");
_Static_assert(sizeof(struct io_uring_getevents_arg) == 24, "getevents_arg");
_Static_assert(offsetof(struct io_uring_getevents_arg, ts) == 16, "getevents_arg.ts");
_Static_assert(sizeof(struct io_uring_files_update) == 16, "files_update");
_Static_assert(sizeof(struct io_uring_rsrc_update2) == 32, "rsrc_update2");
_Static_assert(sizeof(struct io_uring_napi) == 16, "napi");
_Static_assert(sizeof(struct io_uring_restriction) == 16, "restriction");
_Static_assert(sizeof(struct io_uring_probe_op) == 8, "probe_op");
_Static_assert(sizeof(struct io_uring_probe) == 16, "probe");
_Static_assert(sizeof(struct io_uring_buf) == 16, "buf");
_Static_assert(offsetof(struct io_uring_buf, resv) == 14, "the buffer ring's tail is at byte 14");
_Static_assert(sizeof(struct io_uring_buf_reg) == 40, "buf_reg");
_Static_assert(offsetof(struct io_uring_buf_reg, bgid) == 12, "buf_reg.bgid");
_Static_assert(sizeof(struct io_uring_buf_status) == 40, "buf_status");
_Static_assert(sizeof(struct io_uring_sync_cancel_reg) == 64, "sync_cancel_reg");
_Static_assert(offsetof(struct io_uring_sync_cancel_reg, timeout) == 16, "sync_cancel_reg.timeout");
_Static_assert(sizeof(struct io_uring_recvmsg_out) == 16, "recvmsg_out");
_Static_assert(sizeof(struct __kernel_timespec) == 16, "__kernel_timespec");
#endif
