/* The TUN device: layer 3 packets in and out of the kernel. Source: tun(4), Documentation/networking/tuntap.rst.
 * Owner: the plane. Thread: opened by the plane's creator, then the worker alone. Freed by tun_close(). */
#ifndef UDPRING_TUNNEL_TUN_TUN_H
#define UDPRING_TUNNEL_TUN_TUN_H
#include "../../base.h"

#include <net/if.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "vnet.h"

#define TUN_NODE "/dev/net/tun"
#define LINK_HEADER 14          /* Ethernet */
#define TUN_OFFLOAD_UDP 0x20u   /* TUN_F_USO4: UDP super-packets, both families (Linux 6.2) */

struct tun {
    int fd;
    int query_fd;               /* a socket in the device's network namespace, for its MTU. -1 until needed */
    uint32_t mtu;               /* as last looked up */
    uint32_t offloads;          /* TUN_F_*: the super-packets that the kernel may hand over. 0: single packets only */
    bool many;                  /* IFF_MULTI_QUEUE */
    bool elsewhere;             /* query_fd was given, and stays: the device is in a namespace that this process cannot enter */
    bool vnet;                  /* a struct vnet_header goes before each packet, either way */
    uint8_t link;               /* bytes of the link header behind that: 0, or LINK_HEADER of a packet socket */
    uint8_t link_header[12];    /* of packets in: the interface's address, the far end's */
    uint64_t lost;              /* packets that a packet socket did not give, as last looked up */
    char name[IFNAMSIZ];        /* as the kernel gave it */
};

/* Creates the interface (name may hold %d) with this MTU. `offload`: super-packets both ways, as far as the kernel takes
 * them.
 * -EBUSY: the name is taken. -EPERM: no right. -ENOENT, -EACCES: no device node, or not for us. Each with the cure in `why`. */
int tun_open(struct tun *tun, const char *name, uint32_t mtu, bool offload, bool many, struct udpring_reason *why) UR_MUST_CHECK;
/* Duplicates descriptors that somebody else opened, who keeps his: of a TUN device, or a packet socket (tun_packet.c) at the far
 * end of the interface `name`. query_fd: a socket of the interface's namespace, or -1. */
int tun_take(struct tun *tun, const char *name, int fd, int query_fd, bool offload, struct udpring_reason *why) UR_MUST_CHECK;
/* One more of the same interface. */
int tun_take_queue(struct tun *queue, const struct tun *first, int fd, struct udpring_reason *why) UR_MUST_CHECK;
/* The most super-packets that this kernel gives and takes, found by asking. */
void tun_set_offloads(struct tun *tun, bool wanted);
/* One more queue of an interface that was made with `many`. The kernel gives each TCP flow, and all else between two
 * hosts, to one queue (tun_steer.c), so packets of a flow stay in order. */
int tun_open_queue(struct tun *queue, const struct tun *first, struct udpring_reason *why) UR_MUST_CHECK;
/* Has the kernel choose queues so. 0, or -errno: it then chooses by its own table of flows, which may move one. */
int tun_steer(const struct tun *tun);
/* Has the kernel give the interface no fe80:: address when it is set up, as its own WireGuard does. 0, or -errno: it then
 * gets one, which harms nothing. */
int tun_no_addresses_by_itself(const struct tun *tun);
/* The negative code. Writes in words which step was refused (opening TUN_NODE, or TUNSETIFF), and the cure in parentheses. */
int tun_refused_node(int code, struct udpring_reason *why);
int tun_refused_interface(int code, const char *name, struct udpring_reason *why);
void tun_close(struct tun *tun);
/* Bytes of one packet or super-packet, -EAGAIN when there is none, -EBADFD when the interface is gone.
 * There are VNET_HEADER + LINK_HEADER bytes of room before `packet`. */
ssize_t tun_read(struct tun *tun, struct vnet_header *vnet, uint8_t *packet, size_t room);
/* One packet in pieces. parts[0] is left free for the header. 0, or -errno (-EIO: the interface is down). */
int tun_write(const struct tun *tun, struct vnet_header *vnet, struct iovec *parts, int count);
/* Looks up name and MTU anew, in whichever namespace the interface is now. */
void tun_refresh(struct tun *tun);
#endif
