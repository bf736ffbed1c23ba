/* Receiving from many sockets with one pool of slots. Sockets come and go while it runs.
 *
 * 1. A tier (rx_set_mmsg.c, rx_set_uring.c) watches the sockets, each edge once, and puts those with news on the list `ready`.
 * 2. rx_set_receive takes datagrams by recvmmsg from the sockets of that list. A socket that has no more leaves the list. One that
 *    may have more goes to its end, so that all get their turn.
 * So an idle socket costs nothing in a pass, and the sockets share the slots.
 *
 * A socket that was closed or shut down leaves by itself, with an errno: udp_rx_ended(). The others go on. */
#ifndef UDPRING_UDP_RX_SET_H
#define UDPRING_UDP_RX_SET_H
#include "handle.h"
#include "rx_vector.h"

#define UDP_RX_NO_MEMBER UINT32_MAX

enum udp_rx_member_state {
    UDP_RX_MEMBER_FREE,
    UDP_RX_MEMBER_ACTIVE,
    UDP_RX_MEMBER_ENDED,     /* on the list `ended` */
    UDP_RX_MEMBER_LEAVING,   /* the kernel still has its poll */
};

/* One socket. Its index is packet.socket_index, and is used again once the socket has left. */
struct udp_rx_member {
    struct udp_handle_socket socket;
    struct udp_switch *gro, *timestamps;
    uint32_t drops;
    uint32_t serial;         /* another one for each socket with this index */
    uint32_t next, previous; /* in the list that it is on */
    int error;               /* why it ended */
    uint8_t state;           /* enum udp_rx_member_state */
    bool ready;              /* on that list */
    bool failed;             /* POLLERR: its error queue may have entries */
    bool shut;               /* no more datagrams will arrive */
    bool unwatched;          /* after it ended: the kernel has no poll of it */
    bool trains;             /* UDP_GRO is on, or was, so a message may be a train */
};

struct udp_rx_members {
    uint32_t first, last;
};

/* Owner: the tier's struct that it is embedded in. Thread: that one's. Freed by rx_set_close(). */
struct udp_rx_set {
    struct udp_rx *rx;
    struct udp_rx_vector vector;
    struct udp_rx_member *member;      /* [capacity] */
    uint32_t capacity, count, idle;    /* count: active and ended ones. idle: the first free one, linked by `next` */
    struct udp_rx_members ready, ended;
    uint32_t *at_fd;                   /* [fds]: 1 + the index of the socket with this descriptor, 0: none */
    uint32_t fds;
    uint32_t check_at;                 /* the member that rx_set_check() looks at next */
    bool starved;                      /* this starvation is already counted */
    /* The tier's part. grow: makes room for this many members. watch: 0 or -errno. The index is part of what it reports. unwatch:
     * true when the index is free at once. Else the tier calls rx_set_left(). */
    int (*grow)(struct udp_rx_set *set, uint32_t capacity);
    int (*watch)(struct udp_rx_set *set, uint32_t index);
    bool (*unwatch)(struct udp_rx_set *set, uint32_t index);
};

int rx_set_open(struct udp_rx_set *set, struct udp_rx *rx, struct udpring_reason *why) UR_MUST_CHECK;
/* Leaves the sockets as they are, if the caller is the process that opened the set. */
void rx_set_close(struct udp_rx_set *set);
/* The index of the socket. -EEXIST: it is a member. -ENOSPC: there are too many. */
int64_t rx_set_add(struct udp_rx_set *set, int fd, struct udpring_reason *why);
/* -ENOENT: no such member. */
int rx_set_remove(struct udp_rx_set *set, uint32_t index);
/* The kernel has no more poll of a member that left. */
void rx_set_left(struct udp_rx_set *set, uint32_t index);
/* The member leaves, with this errno. */
void rx_set_end(struct udp_rx_set *set, uint32_t index, int error);
/* Takes the oldest member that ended, whose index is then free. Its index and errno, or -ENOENT. */
int64_t rx_set_ended(struct udp_rx_set *set, int *error);
/* Looks whether the next members are still open, because a closed socket reports nothing. */
void rx_set_check(struct udp_rx_set *set, uint32_t members);
/* A poll of the member reported these events. */
void rx_set_mark(struct udp_rx_set *set, uint32_t index, uint32_t events);
/* Datagrams can be received without a wait. */
bool rx_set_readable(struct udp_rx_set *set);
/* Sockets wait for a slot: every slot is held. */
bool rx_set_hungry(struct udp_rx_set *set);
unsigned rx_set_receive(struct udp_rx_set *set, struct udpring_packet *packets, unsigned max);
/* From this member alone, whether it is on the list or not. */
unsigned rx_set_receive_from(struct udp_rx_set *set, uint32_t index, struct udpring_packet *packets, unsigned max);
/* 0, or -errno: why it ended. -ENOENT: it is no member. `look`: see first whether it is open. */
int rx_set_member_error(struct udp_rx_set *set, uint32_t index, bool look);
#endif
