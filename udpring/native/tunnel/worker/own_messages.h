/* Messages of this node that the routes lead into its own TUN device (own_messages.c). */
#ifndef UDPRING_TUNNEL_WORKER_OWN_MESSAGES_H
#define UDPRING_TUNNEL_WORKER_OWN_MESSAGES_H
#include "state.h"

/* Of each packet read: whether own_message_loops() is to look at it. All packets of a super-packet have one answer. */
static inline bool own_message_likely(const struct worker *worker, const uint8_t *packet, uint32_t length)
{
    if (length < 20)
        return false;
    bool four = packet[0] >> 4 == 4;
    uint8_t protocol = packet[four ? 9 : 6];
    if (ur_likely(protocol != IPPROTO_UDP))
        return ur_unlikely(protocol == IPPROTO_FRAGMENT);
    uint32_t at = four ? (packet[0] & 15u) * 4 : 40;
    return length >= at + 8 && ((uint32_t)packet[at] << 8 | packet[at + 1]) == plane_port(worker->plane);
}

/* Whether the packet is a message of ours that would come back again and again, and is to be dropped. */
bool own_message_loops(struct worker *worker, const uint8_t *packet, uint32_t length);
#endif
