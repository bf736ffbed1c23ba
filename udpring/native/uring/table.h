/* The operations of the owned ring: what a row of UDPRING_OPERATIONS (abi.h) says. */
#ifndef UDPRING_URING_TABLE_H
#define UDPRING_URING_TABLE_H
#include "../base.h"

#include "abi.h"
#include "kernel.h"

/* The memory of an operation, and how the SQE names it. "Copied": into the slot's block, before the call returns. "Pinned": the
 * caller's own memory, which its holder keeps until the terminal completion (`pin`). */
enum ur_memory {
    UR_MEMORY_NONE,          /* no memory: the arguments are numbers */
    UR_MEMORY_POLL,          /* none. op_flags are poll events */
    UR_MEMORY_MESSAGE,       /* none. off is the message to another ring, of 56 bits */
    UR_MEMORY_SEND_FD,       /* none. off is the message, addr the registered file to send */
    UR_MEMORY_COMMAND,       /* the bytes of a command, which the SQE holds, and pinned memory that the command names */
    UR_MEMORY_SHOTS,         /* from here on only a completion says when the memory is free, or the last of several. None here */
    UR_MEMORY_IN,            /* addr: bytes that the kernel reads, copied or pinned. len: how many */
    UR_MEMORY_OUT,           /* addr: bytes that the kernel writes, the slot's or pinned. len: how many */
    UR_MEMORY_NAME,          /* addr: a socket address, copied. off: its length */
    UR_MEMORY_ACCEPT,        /* addr: room for a socket address, off: for its length, both in the slot */
    UR_MEMORY_PATH,          /* addr: a path, copied */
    UR_MEMORY_TWO_PATHS,     /* addr, off: two paths, copied. The caller separates them by a NUL */
    UR_MEMORY_OPEN,          /* addr: a path, copied. off: struct open_how, from off (flags), len (mode) and addr (resolve) */
    UR_MEMORY_STATX,         /* addr: a path, copied. off: struct statx, in the block */
    UR_MEMORY_FILES,         /* addr: descriptors, copied, and written back. len: how many */
    UR_MEMORY_EVENTS,        /* addr: struct epoll_event, in the block. len: how many */
    UR_MEMORY_SIGINFO,       /* off: siginfo_t, in the block */
    UR_MEMORY_TWO_FILES,     /* addr: two descriptors, in the block */
    UR_MEMORY_XATTR_GET,     /* addr: a name, copied. off: len bytes in the block. addr3: a path behind the name, or none */
    UR_MEMORY_XATTR_SET,     /* addr: a name, copied. addr3: a path or none, copied. off: a value of len bytes, copied */
    UR_MEMORY_OPTION_GET,    /* addr3: len bytes in the block. off: the command, addr: level and option */
    UR_MEMORY_OPTION_SET,    /* addr3: bytes, copied */
    UR_MEMORY_WORD,          /* addr: a futex of 32 bits, pinned. addr becomes its mask */
    UR_MEMORY_PAGES,         /* addr: whole pages, pinned. len: how many bytes */
    UR_MEMORY_VECTOR,        /* addr: struct iovec, copied, of pinned memory. len: how many */
    UR_MEMORY_MESSAGE_OUT,   /* addr: struct msghdr in the slot. Payload copied or pinned. Name and control data copied */
    UR_MEMORY_MESSAGE_IN,    /* addr: struct msghdr in the slot. Payload in the block or pinned. Room for name and control data */
    UR_MEMORY_MESSAGE_GROUP, /* addr: struct msghdr in the slot. Each message goes to a provided buffer */
    UR_MEMORY_GROUP,         /* a provided buffer */
    UR_MEMORY_GROUP_SEND,    /* provided buffers with data to send */
    UR_MEMORY_GIVE,          /* addr: buffers of a legacy group, from off (the first) and fd (how many) */
    UR_MEMORY_TAKE_BACK,     /* none, but when it has ended, the kernel has no buffer of a legacy group. fd: all of them */
    UR_MEMORY_FIXED,         /* addr: within a registered buffer, from addr (start) and len */
    UR_MEMORY_TIME,          /* addr: a time in the slot, from addr (nanoseconds) */
    UR_MEMORY_TIME_UPDATE,   /* off: a time in the slot, from off (nanoseconds) */
};

/* The arguments that an operation takes. Others must be zero, so that none of them is an address for the kernel. */
#define UR_TAKES_FILE (1u << 0)      /* fd is a file, and may be a registered one (IOSQE_FIXED_FILE) */
#define UR_TAKES_FD (1u << 1)        /* fd is a descriptor that the kernel never takes from the registered files, or a number */
#define UR_TAKES_OFF (1u << 2)
#define UR_TAKES_ADDR (1u << 3)
#define UR_TAKES_LEN (1u << 4)
#define UR_TAKES_BITS (1u << 5)      /* op_flags */
#define UR_TAKES_PRIO (1u << 6)
#define UR_TAKES_BUFFER (1u << 7)    /* buf_index or buf_group */
#define UR_TAKES_INDEX (1u << 8)     /* file_index and its aliases */
/* Beside the arguments: what the operation does with its file. */
#define UR_READS (1u << 9)           /* reads it. op_flags are RWF_* */
#define UR_WRITES (1u << 10)         /* writes to it. op_flags are RWF_* */
#define UR_POLLS (1u << 11)          /* waits for its readiness */
/* The kernel takes an error of it for a success (seen on Linux 5.19 to 6.18, which do not call req_set_fail() for it): with
 * SKIP_SUCCESS the completion is left out, and a chain goes on. */
#define UR_QUIET (1u << 12)
#define UR_NOTIFIES (1u << 13)       /* has a second completion, when the kernel has let go of the memory */

struct ur_row {
    const char *name;
    uint8_t opcode, memory;
    uint16_t takes;
    uint16_t prio;             /* bits of sqe.ioprio that are always set */
    uint32_t bits;             /* bits of sqe.op_flags that are always set */
    uint16_t since;            /* the kernel that first has it: 601 is 6.1 */
};

/* NULL: no operation has this number. */
const struct ur_row *ur_row(uint32_t operation);
#endif
