/* Segmentation on the way out: splits a super-packet of the TUN device into its packets (TSO, USO). */
#ifndef UDPRING_TUNNEL_TUN_SEGMENT_H
#define UDPRING_TUNNEL_TUN_SEGMENT_H
#include "vnet.h"

/* IP and transport header: IPv6 extension headers (a segment routing header of 30 hops among them) can be this long. */
#define SEGMENT_HEADER_MAX 1024

/* Walks a super-packet in place: each segment's header is written over the end of the payload before it, which the caller
 * has sealed by then, so payload is never copied. Owner, thread: the caller, on its stack. Nothing to free. */
struct segmenter {
    uint8_t *packet;            /* the super-packet. Destroyed by the walk */
    uint32_t length;
    uint32_t header;            /* bytes of IP and transport header */
    uint32_t transport;         /* where the transport header starts */
    uint32_t segment;           /* payload bytes a segment, but for the last */
    uint32_t at;                /* payload bytes handed out */
    uint32_t index;
    uint8_t protocol;           /* IPPROTO_TCP, IPPROTO_UDP */
    bool v6, done;
    uint64_t addresses;         /* sum of the addresses, for the pseudo-header */
    uint8_t saved[SEGMENT_HEADER_MAX];   /* the header as the kernel gave it */
};

/* Compares the virtio header with the packet, and completes the checksum of a single packet. 0, or -EINVAL: they do not agree
 * (drop it). */
int segment_open(struct segmenter *segmenter, const struct vnet_header *vnet, uint8_t *packet, uint32_t length) UR_MUST_CHECK;
/* How many packets there are left, and the length of the one after `index` others. Before the first segment_next(). */
static inline uint32_t segment_count(const struct segmenter *segmenter)
{
    uint32_t payload = segmenter->length - segmenter->header;
    return !segmenter->segment ? 1 : payload ? (payload - 1) / segmenter->segment + 1 : 1;
}
static inline uint32_t segment_length(const struct segmenter *segmenter, uint32_t index)
{
    if (!segmenter->segment)
        return segmenter->length;
    uint32_t left = segmenter->length - segmenter->header - index * segmenter->segment;
    return segmenter->header + (left < segmenter->segment ? left : segmenter->segment);
}
/* The next packet, to be sealed before the one after it is asked for. False when there is none. */
bool segment_next(struct segmenter *segmenter, uint8_t **packet, uint32_t *length);
#endif
