/* A general ring whose operations own every byte that the kernel may access. It is for callers that cannot keep memory alive
 * themselves (Python). owned.c opens and closes, prepare.c queues, harvest.c returns completions, notify.c wakes event loops,
 * registered.c registers files and memory. */
#ifndef UDPRING_URING_OWNED_H
#define UDPRING_URING_OWNED_H
#include <sys/socket.h>
#include <sys/uio.h>

#include "abi.h"
#include "bufring.h"
#include "ops.h"
#include "ring.h"

#define UR_GROUPS_MAX 16
#define UR_FIXED_MAX 1024

/* The memory that the kernel may access for one operation. Owner: the ring's slot table, from queue to settle. Thread: the
 * ring's owner. Freed: `block` by settle after the terminal completion; the table by close, or leaked if operations did not
 * end. */
struct ur_slot {
    struct msghdr header;
    struct iovec vector;
    struct sockaddr_storage name;
    struct __kernel_timespec time;
    uint8_t *block;            /* control, then payload; NULL: none */
    uint8_t *payload;          /* within block, or within a registered buffer */
    size_t block_bytes;
    uint32_t control_room;
    uint8_t opcode;
    uint8_t group;             /* index into groups, for operations that select buffers */
};

/* Provided buffers of one group. Owner: the ring. Thread: its owner. Freed with it. */
struct ur_group {
    struct ur_bufring ring;
    uint8_t *memory;           /* count x bytes, mapped */
    uint32_t bytes;            /* of one buffer */
};

/* Owner: the caller of open. Thread: the ring's owner. Freed by udpring_ring_free(). */
struct udpring_ring {
    struct ur_ring ring;
    struct ur_ops ops;
    struct ur_slot *slots;     /* [ops.count] */
    struct ur_group groups[UR_GROUPS_MAX];
    uint32_t group_count;
    struct iovec fixed[UR_FIXED_MAX];
    uint32_t fixed_count;
    int eventfd;               /* of udpring_ring_fileno(); -1: none yet */
    uint64_t silent;           /* number of silent operations: gives the low bits of their user_data */
    uint64_t unknown;          /* completions of an unknown kind */
    uint32_t busy;             /* slots queued, in flight or not settled */
    bool chain_open;           /* the newest entry, not submitted yet, links to the next one */
    /* Returned by harvest, freed by settle. */
    uint32_t ended[UDPRING_HARVEST_MAX], ended_count;
    struct { uint8_t group; uint16_t id; } lent[UDPRING_HARVEST_MAX];
    uint32_t lent_count;
};

/* Frees the slot's memory and returns the slot to the free list. It must be taken and not in flight. */
void ur_slot_release(struct udpring_ring *self, uint32_t slot);
/* Adds a buffer at the tail of its group again. Publish afterwards. */
void ur_group_recycle(struct ur_group *group, uint16_t id);
#endif
