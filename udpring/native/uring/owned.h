/* A general ring whose operations own every byte that the kernel may access. It is for callers that cannot keep memory alive
 * themselves (Python). table.c has the operations. owned.c opens and closes, prepare.c queues, equip.c gives an operation its
 * memory, groups.c has buffer groups, many.c queues batches, harvest.c and bundle.c return completions, columns.c many of them as
 * columns, notify.c wakes event loops, registered.c registers files and memory. */
#ifndef UDPRING_URING_OWNED_H
#define UDPRING_URING_OWNED_H
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "abi.h"
#include "bufring.h"
#include "ops.h"
#include "pool.h"
#include "queue.h"
#include "table.h"

#define UR_GROUPS_MAX 16
#define UR_FIXED_MAX 1024

/* The memory that the kernel may access for one operation. Owner: the ring's slot table, from queue to settle. Thread: the
 * ring's owner. Freed: `block` goes back to the pool by settle after the terminal completion. The table by close, or leaked if
 * operations did not end. */
struct ur_slot {
    struct msghdr header;
    struct iovec vector;
    struct sockaddr_storage name;
    struct __kernel_timespec time;
    socklen_t name_length;
    uint8_t *block;            /* from the pool. NULL: none */
    size_t block_bytes;
    uint64_t fixed_epoch;      /* when it was equipped. Tells which registered buffer its index meant */
    uint64_t pin;              /* memory of the caller that the kernel may access. 0: none */
    /* What a completion shows: min(result x unit, room) bytes at `out`, or all of it when unit is 0. */
    const uint8_t *out;
    uint32_t room, unit;
    uint32_t control_room;
    uint8_t memory;            /* enum ur_memory */
    uint8_t group;             /* index into groups, for operations that select buffers */
    bool bundle;               /* one completion may have filled several of them */
    uint16_t first;            /* GIVE: the buffers to give */
    uint32_t buffers;
};

/* Provided buffers of one group. Memory NULL: a free place. Owner: the ring. Thread: its owner. Freed with it. */
struct ur_group {
    struct ur_bufring ring;
    uint8_t *memory;           /* count x bytes, mapped */
    size_t mapped;             /* bytes at memory */
    uint32_t bytes;            /* of one buffer */
    uint8_t kind;              /* enum udpring_group. VIEWS: the memory is the program's */
    bool sending;              /* SENDS: an operation draws from it */
    uint16_t head;             /* SENDS: entries before it are free */
    uint8_t *given;            /* LEGACY: [count], 1: the kernel has the buffer, or an operation gives it */
};

/* Owner: the caller of open. Thread: the ring's owner. Freed by udpring_ring_free(). */
struct udpring_ring {
    struct ur_ring ring;
    struct ur_ops ops;
    struct ur_slot *slots;     /* [ops.count] */
    struct ur_pool pool;       /* the blocks of slots */
    struct ur_group groups[UR_GROUPS_MAX];
    uint32_t group_count;
    struct iovec fixed[UR_FIXED_MAX];
    uint32_t fixed_count;
    uint64_t fixed_epoch;      /* number of times that registered buffers were replaced or unregistered */
    int eventfd;               /* of udpring_ring_fileno(). -1: none yet */
    dev_t anonymous;           /* with eventfd: the device of anonymous inodes */
    bool nests;                /* an operation may have polled another eventfd: see notify.c */
    uint64_t silent;           /* number of silent operations: gives the low bits of their user_data */
    uint64_t unknown;          /* completions of an unknown kind */
    uint32_t busy;             /* slots queued, in flight or not settled */
    bool drained;              /* an operation had DRAIN */
    bool chain_open;           /* the newest entry, not submitted yet, links to the next one */
    /* Returned by harvest, freed by settle. */
    uint32_t ended[UDPRING_HARVEST_MAX], ended_count;
    /* A buffer of a group, or a block with the data of several. bytes 0: a buffer. */
    struct { uint8_t group; uint16_t id; bool claimed; uint32_t bytes; uint8_t *block; } lent[UDPRING_HARVEST_MAX];
    uint32_t lent_count;
    struct { uint64_t pin; uint32_t count; } released[UDPRING_HARVEST_MAX];   /* since udpring_ring_released() */
    uint32_t released_count;
    bool buried;               /* closed with operations left: their memory was leaked */
    struct udpring_reason why; /* of the last call that failed */
};

/* One operation to queue: the arguments of the udpring_ring_put calls. */
struct ur_request {
    const struct ur_row *row;
    uint32_t flags, len, op_flags, index;
    int32_t fd;
    uint64_t off, addr;
    uint16_t prio, buffer;
    const uint8_t *memory, *name, *control;
    uint64_t size, pin;
    uint32_t name_size, control_size, count;
    uint8_t *const *pieces;    /* of a vector: count of them, of these sizes */
    const uint64_t *sizes;
};

/* Refuses what could make the kernel access memory that the operation does not own, and what cannot be meant. 0 or -errno. */
int ur_request_check(struct udpring_ring *self, const struct ur_request *request);
/* Equips a slot with the memory of the operation: takes a block, copies into it. 0 or -errno. Then the slot has to be
 * released. */
int ur_slot_equip(struct udpring_ring *self, struct ur_slot *slot, const struct ur_request *request);
/* Fills a zeroed SQE, except user_data. slot: NULL for operations without one. */
void ur_request_fill(struct udpring_ring *self, struct io_uring_sqe *sqe, const struct ur_slot *slot,
                     const struct ur_request *request);
/* Queues a request that was checked: takes a slot and an SQE. The user_data, or -errno. */
int64_t ur_request_queue(struct udpring_ring *self, const struct ur_request *request);
/* Checks and queues. */
int64_t ur_request_put(struct udpring_ring *self, const struct ur_request *request);
/* Frees the operations that the last harvest ended, and returns the buffers that it lent. 0 or -errno. */
int ur_settle(struct udpring_ring *self);
/* Handles one completion. True: the caller gets it in *out. It needs a settle before UDPRING_HARVEST_MAX others. */
bool ur_completion_take(struct udpring_ring *self, const struct io_uring_cqe *cqe, struct udpring_completion *out);
const struct ur_group *ur_group_of(const struct udpring_ring *self, uint32_t id);
/* Copies the data of a bundle into a block, which is lent until settle, and returns its buffers to the kernel. False: it is no
 * bundle, or has one buffer. */
bool ur_bundle_gather(struct udpring_ring *self, const struct ur_slot *slot, const struct io_uring_cqe *cqe,
                      struct udpring_completion *out);
/* Notes whether the file of a request may be an eventfd. For a ring with an eventfd of its own. */
void ur_notice_file(struct udpring_ring *self, const struct ur_request *request);
/* A pin of an operation that ended. */
void ur_pin_release(struct udpring_ring *self, uint64_t pin);

/* Whether the kernel picks a buffer of a group for the operation and fills it. */
static inline bool ur_slot_selects(const struct ur_slot *slot)
{
    return slot->memory == UR_MEMORY_GROUP || slot->memory == UR_MEMORY_MESSAGE_GROUP;
}

/* Frees the slot's memory and returns the slot to the free list. It must be taken and not in flight. */
void ur_slot_release(struct udpring_ring *self, uint32_t slot);
/* Whether a buffer group is among the operation's memory. */
static inline bool ur_slot_groups(const struct ur_slot *slot)
{
    return ur_slot_selects(slot) || slot->memory == UR_MEMORY_GROUP_SEND || slot->memory == UR_MEMORY_GIVE ||
           slot->memory == UR_MEMORY_TAKE_BACK;
}
/* For these kinds of memory: refuses, notes the begin, notes the end. */
int ur_group_check(struct udpring_ring *self, const struct ur_request *request);
void ur_group_began(struct udpring_ring *self, struct ur_slot *slot, const struct ur_request *request);
void ur_group_ended(struct udpring_ring *self, const struct ur_slot *slot, int32_t result);

/* Unregisters a group. Call after settling, so that no buffer of it is lent. */
int ur_group_close(struct udpring_ring *self, uint32_t group);
/* Returns a buffer to its group. Publish afterwards. */
void ur_group_recycle(struct ur_group *group, uint16_t id);
#endif
