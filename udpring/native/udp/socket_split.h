/* Which socket of a port gets a datagram: a classic BPF program on the group (SO_ATTACH_REUSEPORT_CBPF, Linux 4.5), so that
 * datagrams of one kind never wait behind those of another, and the kernel sheds each kind from a buffer of its own.
 *
 * The program sees a whole train as one datagram and cannot tell the two apart. So only what cannot hold a message of the
 * many goes to the one apart: datagrams and trains of exactly the right lengths, and what is too short for a train of two
 * messages. A filter on that socket (SO_ATTACH_FILTER) discards the latter before it is queued. */
#ifndef UDPRING_UDP_SOCKET_SPLIT_H
#define UDPRING_UDP_SOCKET_SPLIT_H
#include "../base.h"

#include "abi.h"

#define UDP_SPLIT_WORDS_MAX 4
#define UDP_SPLIT_SEPARATE_MAX 8

/* Owner: the caller, constant. Any thread. Nothing to free. */
struct udp_split {
    uint32_t word[UDP_SPLIT_WORDS_MAX];   /* the first four bytes, in network order, of what goes to the many */
    uint32_t words;
    uint32_t least;                       /* and how many bytes it has at least (1 or more) */
    /* What goes to the one apart: this word, and so many bytes or a multiple of them. */
    struct { uint32_t word, bytes; } separate[UDP_SPLIT_SEPARATE_MAX];
    uint32_t separates;
    uint32_t train_least;                 /* anything else of fewer bytes holds no message, and is discarded */
    uint32_t buffer_bytes;                /* receive buffer of the one apart */
};

/* Whether this kernel takes such a program: 0, or -errno and why not. Tried on a socket that is bound to nothing. */
int udp_split_works(const struct udp_split *split, struct udpring_reason *why) UR_MUST_CHECK;
/* On the group of `fd`, whose first socket is the one apart; the next `count` get what may hold a message for them, and each
 * sender (address and port) keeps to one of these. */
int udp_split_attach(int fd, int family, const struct udp_split *split, uint32_t count, struct udpring_reason *why) UR_MUST_CHECK;
/* On the socket apart: it takes messages of the right lengths and nothing else. Where the kernel refuses (-errno) it takes all. */
int udp_split_filter(int fd, const struct udp_split *split);
#endif
