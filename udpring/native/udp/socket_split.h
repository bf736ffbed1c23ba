/* A classic BPF program on the sockets of a port (SO_ATTACH_REUSEPORT_CBPF, Linux 4.5) chooses the socket for each datagram.
 * One socket is separate, the others share the rest. So datagrams of one kind never wait behind another kind, and on overload
 * the kernel drops each kind from a buffer of its own.
 *
 * The program sees a whole GRO train as one datagram and cannot distinguish the two. So the separate socket only gets datagrams
 * that cannot contain a message for the others: datagrams and trains of exactly the right lengths, and those too short for a
 * train of two messages. A filter on the separate socket (SO_ATTACH_FILTER) discards the latter before they are queued. */
#ifndef UDPRING_UDP_SOCKET_SPLIT_H
#define UDPRING_UDP_SOCKET_SPLIT_H
#include "../base.h"

#include "abi.h"

#define UDP_SPLIT_WORDS_MAX 4
#define UDP_SPLIT_SEPARATE_MAX 8

/* Owner: the caller, constant. Any thread. Nothing to free. */
struct udp_split {
    uint32_t word[UDP_SPLIT_WORDS_MAX];   /* the first four bytes (network order) of messages for the other sockets */
    uint32_t words;
    uint32_t least;                       /* the minimum length of such a message (1 or more) */
    /* Messages for the separate socket: this first word, and a length that is a multiple of `bytes`. */
    struct { uint32_t word, bytes; } separate[UDP_SPLIT_SEPARATE_MAX];
    uint32_t separates;
    uint32_t train_least;                 /* other datagrams shorter than this contain no message and are discarded */
    uint32_t buffer_bytes;                /* receive buffer of the separate socket */
};

/* Whether this kernel takes such a program: 0, or -errno and why not. Tried on an unbound socket. */
int udp_split_works(const struct udp_split *split, struct udpring_reason *why) UR_MUST_CHECK;
/* Attaches the program to the group of `fd`. The first socket of the group is the separate one. The next `count` sockets get
 * the datagrams that may contain a message for them. All datagrams of a sender (address and port) go to the same socket. */
int udp_split_attach(int fd, int family, const struct udp_split *split, uint32_t count, struct udpring_reason *why) UR_MUST_CHECK;
/* Attaches the filter to the separate socket, which then takes only messages of the right lengths. If the kernel refuses
 * (-errno), the socket takes all datagrams. */
int udp_split_filter(int fd, const struct udp_split *split);
#endif
