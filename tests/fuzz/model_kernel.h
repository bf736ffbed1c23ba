/* A kernel for one plane. It answers the core's system calls on the TUN device, UDP sockets, eventfds and clock with the
 * harness's
 * data. Nothing reaches the real kernel, and each run is the same. */
#ifndef UDPRING_FUZZ_MODEL_KERNEL_H
#define UDPRING_FUZZ_MODEL_KERNEL_H
#include <sys/socket.h>
#include <sys/uio.h>

#include "input.h"
#include "tunnel/tun/vnet.h"
#include "udp/abi.h"

enum { KERNEL_FD = 10000, KERNEL_FDS = 64, KERNEL_QUEUE = 128, KERNEL_WATCHED = 4,
       KERNEL_SPACE = 4026 /* inode of the network namespace */ };

enum kernel_kind { KERNEL_CLOSED, KERNEL_EVENT, KERNEL_TUN, KERNEL_UDP, KERNEL_NETLINK, KERNEL_NETSPACE, KERNEL_OTHER, KERNEL_EPOLL };

/* A packet of the device, a datagram (a train with `segment`), or an error instead of one.
 * Owner: the descriptor's queue. Freed when it is read. */
struct kernel_packet {
    uint8_t *bytes;
    uint32_t length, segment;
    int error;
    struct vnet_header vnet;
    struct udpring_address source, local;
    uint32_t interface_index, drops;
    uint32_t number;            /* the harness's own */
    uint64_t time_ns;
    uint8_t tos;
};

struct kernel_file {
    enum kernel_kind kind;
    int family;
    uint64_t event;
    bool full;                  /* a socket whose send buffer has no room */
    bool bound, group_program;
    bool vnet;                  /* of the device: IFF_VNET_HDR */
    bool nonblocking;
    bool joined, overrun;       /* of rtnetlink: it receives notices of changes; some were lost */
    uint32_t number;            /* among the open files of its kind and family when it was opened */
    uint16_t port;
    uint64_t serial;            /* never reused by another file */
    /* Of a socket. */
    struct udpring_address peer;   /* family 0: not connected */
    uint32_t room, charged;     /* of the send buffer, as the kernel counts; room 0: unlimited */
    int error;                  /* reported by the next call: SO_ERROR */
    uint32_t errors;            /* in the error queue: IP_RECVERR */
    bool asks_for_errors, shut, gro, timestamps;
    bool reused;                /* its number was that of a socket which the harness closed: the core may take it for that one */
    uint32_t drops, mark;
    struct { int fd; uint64_t serial; short events; } watched[KERNEL_WATCHED];   /* of an epoll descriptor */
    struct kernel_packet queue[KERNEL_QUEUE];
    uint32_t head, count;
};

/* A message that is being sent, with the contents of its ancillary data. */
struct kernel_send {
    int fd;
    const struct msghdr *message;
    struct udpring_address destination, source;
    uint32_t interface_index, segment, length;
    int32_t tos, ttl;           /* -1: none */
    bool zero_copy;
};

extern struct kernel {
    bool was_full;              /* a send found no room in its socket */
    struct kernel_file file[KERNEL_FDS];
    uint32_t mtu, offloads;     /* of the device: TUN_F_* that it takes */
    bool active;
    bool has_uring, has_netlink;
    uint32_t tunnel;            /* the device's index in this namespace; 0: it is in another one */
    uint32_t other_tunnel;      /* a link that is a tunnel of somebody else's; 0: none is */
    uint32_t bound_to;          /* SO_BINDTOIFINDEX of every socket */
    bool tells_space;           /* the device reports its namespace */
    bool device_gone;           /* the interface was deleted */
    uint64_t serial;
    uint32_t segments;          /* of a train, at most */
    uint32_t charge;            /* of a datagram on its socket's buffer, in addition to its bytes */
    uint32_t interrupts;        /* this many waits end by a signal */
    bool owner_ended;           /* the thread that opened the rings */
    struct { uint32_t after; int error; bool memory_only, hit; } fault;   /* the n-th call from now fails; 0: none */
    bool fault_held;            /* the model and the harness are at work: their own calls do not fail */
    bool fault_stays;           /* every call from that one on fails */
    bool fault_wide;            /* calls on files and sockets too */
    uint64_t random;
    uint64_t yield_ns;          /* the duration of a sched_yield() */
    /* The harness's part. */
    void *(*map)(size_t bytes);   /* anonymous memory; NULL: from the real kernel */
    void (*tun_read)(uint32_t queue, const struct kernel_packet *packet);
    int (*tun_write)(uint32_t queue, const struct vnet_header *vnet, const struct iovec *parts, int count);
    void (*received)(int fd, const struct kernel_packet *packet, bool truncated);
    int32_t (*send)(const struct kernel_send *send);   /* the kernel's answer */
} kernel;

void kernel_reset(void);
/* A new descriptor, or -1 with errno. */
int kernel_open(enum kernel_kind kind, int family);
struct kernel_file *kernel_file(int fd);
/* Queues a packet and takes over its bytes. False: the queue is full and the packet is lost. */
bool kernel_put(struct kernel_file *file, const struct kernel_packet *packet);
/* The n-th open file of a kind, or NULL. */
struct kernel_file *kernel_nth(enum kernel_kind kind, int family, uint32_t n);
/* The present poll(2) events of a file. */
short kernel_events(const struct kernel_file *file, short wanted);
/* The next packet of a TUN queue, with its vnet header in front; or -errno. */
ssize_t kernel_tun_read(struct kernel_file *file, uint8_t *into, size_t room);
ssize_t kernel_receive(int fd, struct msghdr *header);
int32_t kernel_send(int fd, const struct msghdr *header, bool zero_copy);
/* The errno with which this call fails, or 0. */
int kernel_fault(bool memory);
/* The same for a call on a file or a socket. */
int kernel_fault_wide(void);
#endif
