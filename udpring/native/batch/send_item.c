#include "../udp/tx_tier.h"

#include "send_push.h"

int send_make_item(const struct udpring_send *send, const struct send_job *job, const struct udpring_address *to,
                   struct udp_tx_item *item)
{
    const struct udpring_send_job *face = job->face;
    int family = to && to->family ? to->family : send->tx->wire_family[0];
    if (face->source.family && face->source.family != family)
        return -EAFNOSUPPORT;
    *item = (struct udp_tx_item){.source = face->source, .interface_index = face->interface_index, .ttl = face->ttl,
                                 .flags = UDP_TX_SOURCE_STRICT};
    if (face->flags & UDPRING_SEND_TOS) {
        item->tos = face->tos;
        item->flags |= UDP_TX_TOS_GIVEN;
    }
    if (to)
        item->destination = *to;
    return 0;
}
