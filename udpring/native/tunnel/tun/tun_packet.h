/* A packet socket in place of a TUN device: packet(7) with PACKET_VNET_HDR, at the far end of a veth pair whose near end is the
 * interface. It serves where the device node may not be opened, as in a user namespace. */
#ifndef UDPRING_TUNNEL_TUN_TUN_PACKET_H
#define UDPRING_TUNNEL_TUN_TUN_PACKET_H
#include "tun.h"

/* Fills in the rest of `tun`, whose descriptors are set. */
int tun_packet_take(struct tun *tun, const char *name, bool offload, struct udpring_reason *why) UR_MUST_CHECK;
/* As tun_read and tun_write. */
ssize_t tun_packet_read(struct tun *tun, struct vnet_header *vnet, uint8_t *packet, size_t room);
int tun_packet_write(const struct tun *tun, const struct vnet_header *vnet, struct iovec *parts, int count);
/* Packets that the kernel has dropped so far: the queue was full, or it could not describe them. 0 for a TUN device. */
uint64_t tun_packet_lost(struct tun *tun);
#endif
