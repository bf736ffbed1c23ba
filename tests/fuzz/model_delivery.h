/* Packets through a stage that may join them, but must not change, lose or reorder them within a flow. */
#ifndef UDPRING_FUZZ_MODEL_DELIVERY_H
#define UDPRING_FUZZ_MODEL_DELIVERY_H
#include <sys/uio.h>

#include "model_packets.h"

enum { DELIVERY_MAX = 4096 };

struct delivery_packet {
    uint8_t *bytes;
    uint32_t length;
    bool out, is_flow;
    uint8_t flow[MODEL_FLOW_BYTES];
};

/* Owner: the harness. Zeroed memory is empty. delivery_clear() frees it. */
struct delivery {
    struct delivery_packet packet[DELIVERY_MAX];
    uint32_t count, missing;    /* missing: went in, but not out */
    bool lossy;                 /* packets may be dropped; later ones keep their place */
};

void delivery_in(struct delivery *delivery, const uint8_t *packet, uint32_t length);
/* One of the packets that went in, byte for byte, and the first remaining one of its flow (lossy: earlier ones are lost now).
 * */
void delivery_out(struct delivery *delivery, const uint8_t *packet, uint32_t length);
/* A write to the TUN device: a packet, or a super-packet that the kernel accepts and segments into the original packets. */
void delivery_tun_write(struct delivery *delivery, const struct vnet_header *vnet, const struct iovec *parts, int count);
void delivery_clear(struct delivery *delivery);
#endif
