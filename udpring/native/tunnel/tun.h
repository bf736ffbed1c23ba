/* The TUN device: layer 3 packets in and out of the kernel. Source: tun(4), Documentation/networking/tuntap.rst.
 * Owner: the plane. Thread: opened by the plane's creator, then the worker alone. Freed by tun_close(). */
#ifndef UDPRING_TUNNEL_TUN_H
#define UDPRING_TUNNEL_TUN_H
#include "../base.h"

#include <net/if.h>
#include <sys/types.h>

struct tun {
    int fd;
    int query_fd;               /* a socket in the device's network namespace, for its MTU; -1 until needed */
    uint32_t mtu;               /* as last looked up */
    char name[IFNAMSIZ];        /* as the kernel gave it */
};

/* Creates the interface (name may hold %d) with this MTU, or takes over `fd` when it is >= 0.
 * -EBUSY: the name is taken; -EPERM, -ENOENT: no right, no device; each with the cure in `why`. */
int tun_open(struct tun *tun, const char *name, uint32_t mtu, int fd, struct udpring_reason *why) UR_MUST_CHECK;
void tun_close(struct tun *tun);
/* Bytes of one packet, -EAGAIN when there is none, -EBADFD when the interface is gone. */
ssize_t tun_read(const struct tun *tun, uint8_t *packet, size_t room);
/* 0, or -errno (-EIO: the interface is down). */
int tun_write(const struct tun *tun, const uint8_t *packet, size_t length);
/* Looks up name and MTU anew, in whichever namespace the interface is now. */
void tun_refresh(struct tun *tun);
#endif
