/* The header before each packet of a TUN device with IFF_VNET_HDR: the work left to hardware.
 * Source: virtio 1.2 section 5.1.6, Linux include/uapi/linux/virtio_net.h and if_tun.h (own copy: distributions ship older ones). */
#ifndef UDPRING_TUNNEL_TUN_VNET_H
#define UDPRING_TUNNEL_TUN_VNET_H
#include "../../base.h"

#define VNET_NEEDS_CSUM 1u    /* flags: the checksum at csum_start + csum_offset holds the pseudo-header's sum alone */
#define VNET_DATA_VALID 2u    /* flags: the checksum was verified */

#define VNET_GSO_NONE 0u
#define VNET_GSO_TCPV4 1u
#define VNET_GSO_TCPV6 4u
#define VNET_GSO_UDP_L4 5u
#define VNET_GSO_ECN 0x80u    /* TCP with CWR set: only the first segment keeps it */

/* Host byte order, as TUN devices have it by default (tun(4), TUNSETVNETLE). */
struct vnet_header {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len;
    uint16_t gso_size;
    uint16_t csum_start;
    uint16_t csum_offset;
};
#define VNET_HEADER 10
_Static_assert(sizeof(struct vnet_header) == VNET_HEADER, "kernel ABI: struct virtio_net_hdr");
#endif
