#include "model_delivery.h"

#include <netinet/in.h>
#include <sys/uio.h>

#include "tunnel/tun/coalesce.h"

void delivery_in(struct delivery *delivery, const uint8_t *packet, uint32_t length)
{
    CLAIM(delivery->count < DELIVERY_MAX, "the harness keeps no more");
    struct delivery_packet *kept = &delivery->packet[delivery->count++];
    *kept = (struct delivery_packet){.bytes = exactly(packet, length), .length = length};
    kept->is_flow = model_flow_of(packet, length, kept->flow);
    delivery->missing++;
}

void delivery_out(struct delivery *delivery, const uint8_t *packet, uint32_t length)
{
    uint8_t flow[MODEL_FLOW_BYTES];
    bool is_flow = model_flow_of(packet, length, flow);
    for (uint32_t i = 0; i < delivery->count; i++) {
        struct delivery_packet *kept = &delivery->packet[i];
        if (kept->out)
            continue;
        bool same_flow = is_flow && kept->is_flow && !memcmp(flow, kept->flow, sizeof(flow));
        bool equal = kept->length == length && !memcmp(kept->bytes, packet, length);
        CLAIM(equal || !same_flow || delivery->lossy, "a packet of %u bytes instead of the next of its flow, of %u", length,
              kept->length);
        if (equal || same_flow) {
            kept->out = true;
            delivery->missing--;
        }
        if (equal)
            return;
    }
    CLAIM(false, "a packet of %u bytes that never went in, or again, or late", length);
}

/* Requirements of the kernel for a super-packet (virtio_net_hdr_to_skb, tun_get_user), and of its receivers. */
static void check_super(const struct vnet_header *vnet, const uint8_t *packet, uint32_t length)
{
    bool v6 = packet[0] >> 4 == 6, tcp = vnet->gso_type != VNET_GSO_UDP_L4;
    uint32_t ip = v6 ? 40 : 20, claimed = (uint32_t)packet[v6 ? 4 : 2] << 8 | packet[v6 ? 5 : 3];
    uint8_t protocol = tcp ? IPPROTO_TCP : IPPROTO_UDP;
    CLAIM(vnet->gso_type == VNET_GSO_UDP_L4 || vnet->gso_type == (v6 ? VNET_GSO_TCPV6 : VNET_GSO_TCPV4), "type %u", vnet->gso_type);
    CLAIM(vnet->flags == VNET_NEEDS_CSUM && vnet->csum_start == ip && vnet->csum_offset == (tcp ? 16 : 6), "checksum at %u + %u",
          vnet->csum_start, vnet->csum_offset);
    CLAIM(vnet->gso_size && vnet->hdr_len < length && length <= COALESCE_BYTES, "%u of %u", vnet->hdr_len, length);
    CLAIM(claimed + (v6 ? 40 : 0) == length, "IP says %u of %u", claimed, length);
    uint32_t partial = (uint32_t)packet[ip + vnet->csum_offset] << 8 | packet[ip + vnet->csum_offset + 1];
    CLAIM(partial % 0xffff == model_pseudo(packet, protocol, length - ip) % 0xffff, "sum of the pseudo-header: %x", partial);
    if (!v6)
        CLAIM(model_sum(0, packet, ip) == 0xffff, "checksum of the IP header");
    if (!tcp)
        CLAIM(((uint32_t)packet[ip + 4] << 8 | packet[ip + 5]) == length - ip, "UDP length");
}

/* Owner: delivery_tun_write(), on its stack. */
struct counted {
    struct delivery *delivery;
    int count;
};

static void segment_out(void *context, const uint8_t *packet, uint32_t length)
{
    struct counted *counted = context;
    counted->count++;
    delivery_out(counted->delivery, packet, length);
}

void delivery_tun_write(struct delivery *delivery, const struct vnet_header *vnet, const struct iovec *parts, int count)
{
    static uint8_t joined[MODEL_PACKET_MAX];
    uint32_t length = 0;
    for (int i = 0; i < count; i++) {
        CLAIM(length + parts[i].iov_len <= sizeof(joined), "more than any packet");
        memcpy(joined + length, parts[i].iov_base, parts[i].iov_len);
        length += (uint32_t)parts[i].iov_len;
    }
    if (vnet->gso_type == VNET_GSO_NONE) {
        CLAIM(count == 1 && !vnet->flags, "%d pieces of one packet", count);
        delivery_out(delivery, joined, length);
        return;
    }
    CLAIM(count >= 2 && count <= COALESCE_PIECES, "%d pieces", count);
    check_super(vnet, joined, length);
    struct counted counted = {delivery, 0};
    CLAIM(model_segment(vnet, joined, length, segment_out, &counted), "a super-packet that nobody can segment");
    CLAIM(counted.count == count, "%d segments of %d packets", counted.count, count);
}

void delivery_clear(struct delivery *delivery)
{
    for (uint32_t i = 0; i < delivery->count; i++)
        free(delivery->packet[i].bytes);
    delivery->count = delivery->missing = 0;
}
