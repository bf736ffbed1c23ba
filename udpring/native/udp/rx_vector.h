/* Receiving by recvmmsg(2) into free slots. A vector of prepared messages outlives the calls, so that a call which brings few
 * datagrams prepares only as many again. A vector belongs to slots, not to a socket: sockets may share one. */
#ifndef UDPRING_UDP_RX_VECTOR_H
#define UDPRING_UDP_RX_VECTOR_H
#include "../base.h"

#include <sys/socket.h>

#include "rx_tier.h"

#define UDP_RX_VECTOR 64   /* messages of one recvmmsg */

/* Name and control data in the header of a slot. The payload follows. */
struct udp_rx_slot_header {
    uint8_t name[UDP_RX_NAME_BYTES];
    uint8_t control[UDP_RX_CONTROL_BYTES];
    uint8_t pad[16];
};

/* Each of header[0 .. prepared) has a slot and is ready to receive. The other free slots are on the stack.
 * Owner: the tier that it is embedded in. Thread: that one's. Freed by udp_rx_vector_close(). */
struct udp_rx_vector {
    struct mmsghdr header[UDP_RX_VECTOR];
    struct iovec iov[UDP_RX_VECTOR];
    uint32_t slot[UDP_RX_VECTOR];
    uint32_t prepared;
    uint32_t *free;
    uint32_t free_count;
    bool plain;   /* receive a single message without control data, because it cannot be a train */
};

/* Takes over `count` slots from `first` on. -ENOMEM. */
int udp_rx_vector_open(struct udp_rx_vector *vector, uint32_t first, uint32_t count) UR_MUST_CHECK;
void udp_rx_vector_close(struct udp_rx_vector *vector);
/* Prepares messages up to `most`. Returns how many are prepared. */
uint32_t udp_rx_vector_fill(const struct udp_rx *rx, struct udp_rx_vector *vector, uint32_t most);
/* Receives up to `room` (at most the prepared) datagrams. `socket` and `drops`: as in struct udp_rx_message. Returns how many, or
 * -errno. Afterwards other slots, if there are any, take the places of the used ones. */
int udp_rx_vector_receive(struct udp_rx *rx, struct udp_rx_vector *vector, int fd, uint32_t socket, uint32_t *drops,
                          struct udpring_packet *packets, uint32_t room);

/* The number of slots that it has. */
static inline uint32_t udp_rx_vector_idle(const struct udp_rx_vector *vector)
{
    return vector->free_count + vector->prepared;
}

/* Takes a slot, if it has one (udp_rx_vector_idle), the last used one first. */
static inline uint32_t udp_rx_vector_take(struct udp_rx_vector *vector)
{
    return vector->free_count ? vector->free[--vector->free_count] : vector->slot[--vector->prepared];
}

static inline void udp_rx_vector_give(struct udp_rx_vector *vector, uint32_t slot)
{
    vector->free[vector->free_count++] = slot;
}
#endif
