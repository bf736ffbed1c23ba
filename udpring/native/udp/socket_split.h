/* Which socket of a port gets a datagram: a classic BPF program on the group (SO_ATTACH_REUSEPORT_CBPF, Linux 4.5), so that
 * datagrams of one kind never wait behind those of another, and the kernel sheds each kind from a buffer of its own. */
#ifndef UDPRING_UDP_SOCKET_SPLIT_H
#define UDPRING_UDP_SOCKET_SPLIT_H
#include "../base.h"
#include "abi.h"

#define UDP_SPLIT_WORDS_MAX 4

/* Owner: the caller, constant. Any thread. Nothing to free. */
struct udp_split {
    uint32_t word[UDP_SPLIT_WORDS_MAX];   /* the first four bytes, in network order, of what goes to the many */
    uint32_t words;
    uint32_t least;                       /* and how many bytes it has at least (1 or more) */
    uint32_t buffer_bytes;                /* receive buffer of the one that gets the rest */
};

/* Whether this kernel takes such a program: 0, or -errno and why not. Tried on a socket that is bound to nothing. */
int udp_split_works(const struct udp_split *split, struct udpring_reason *why) UR_MUST_CHECK;
/* On the group of `fd`, whose first socket gets the rest and the next `count` what `split` names: each sender (address and
 * port) keeps to one of them. */
int udp_split_attach(int fd, int family, const struct udp_split *split, uint32_t count, struct udpring_reason *why) UR_MUST_CHECK;
#endif
