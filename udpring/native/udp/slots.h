/* Slots: the memory for received datagrams, or for a send until it ends. It is mapped with mmap(2), so that a page costs
 * nothing until it is used. A forked child has a copy-on-write copy: the packets that it holds do not change. With
 * udp_slots_wipe_on_fork() the child finds zeros instead. */
#ifndef UDPRING_UDP_SLOTS_H
#define UDPRING_UDP_SLOTS_H
#include "../base.h"

/* Owner: a udp_rx, or after udp_rx_close_keeping_slots() its caller. Thread: the owner's. Freed by udp_slots_unmap(). */
struct udp_slots {
    uint8_t *base;        /* NULL: none */
    size_t bytes;
    uint32_t stride;      /* from slot to slot. A multiple of 64 */
    uint32_t count;
};

int udp_slots_map(struct udp_slots *slots, uint32_t count, uint32_t header_bytes, uint32_t payload_bytes) UR_MUST_CHECK;
void udp_slots_wipe_on_fork(struct udp_slots *slots);   /* Linux 4.14 or newer. On older kernels the child gets copies */
void udp_slots_unmap(struct udp_slots *slots);

static inline uint8_t *udp_slot(const struct udp_slots *slots, uint32_t slot)
{
    return slots->base + (size_t)slot * slots->stride;
}
#endif
