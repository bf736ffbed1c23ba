/* What the UDP layer shows to Python (udpring/udp) and to the tunnel. */
#ifndef UDPRING_UDP_ABI_H
#define UDPRING_UDP_ABI_H
#include "../abi.h"

/* Tiers, best first. AUTO takes the best that works here, found by doing. */
#define UDPRING_TIER_AUTO 0
#define UDPRING_TIER_URING_MULTISHOT 1
#define UDPRING_TIER_URING_POOL 2
#define UDPRING_TIER_MMSG 3
/* The name of a tier as people write it (uring-multishot, uring-pool, mmsg, auto); "?" for an unknown number. */
const char *udpring_tier_name(uint32_t tier);
/* The tier of that name, or -EINVAL. */
int32_t udpring_tier_parse(const char *name);

/* An address of a UDP endpoint. IPv4 in ip[0..3], the rest zero, so that memcmp tells equality.
 * A v4-mapped source on an IPv6 socket is reported as AF_INET. */
struct udpring_address {
    uint16_t family;      /* 0 = none, AF_INET, AF_INET6 */
    uint16_t port;        /* host order */
    uint32_t scope_id;    /* IPv6 link-local only */
    uint8_t ip[16];       /* network order */
};

/* packet.flags */
#define UDPRING_PACKET_TRUNCATED 1          /* MSG_TRUNC: the datagram was longer than the buffer */
#define UDPRING_PACKET_CONTROL_TRUNCATED 2  /* MSG_CTRUNC */

/* One received datagram, or one GRO train of equal segments (the last may be shorter). */
struct udpring_packet {
    uint8_t *data;
    uint32_t length;            /* bytes in data */
    uint32_t segment_size;      /* 0: a single datagram; else the GRO segment size */
    uint32_t slot;              /* give back with release() */
    uint32_t interface_index;   /* arrived on; 0 unknown */
    uint16_t flags;
    uint8_t tos;                /* IP_TOS / IPV6_TCLASS octet; ECN is its low two bits */
    uint8_t socket_index;       /* which of the sockets given at open */
    struct udpring_address source;
    struct udpring_address local;   /* the address it was sent to (pktinfo); port 0; family 0 = unknown */
};

/* Counters of a receive side; each only grows. */
struct udpring_rx_stats {
    uint64_t packets, bytes, trains, wakeups;
    uint64_t truncated, control_truncated, zero_length;
    uint64_t starved;           /* multishot ended for want of buffers, or pool fully held by the user */
    uint64_t icmp_errors;       /* ECONNREFUSED, EHOSTUNREACH, ... delivered to the socket: receiving goes on */
    uint64_t transient_errors;  /* EAGAIN, EINTR, ENOMEM */
    uint64_t stale;             /* completions or releases for a slot that was not in flight / not held: ignored */
    uint64_t kernel_drops;      /* datagrams that the socket buffer had no room for (SO_RXQ_OVFL), as last reported */
};

struct udpring_tx_stats {
    uint64_t packets, bytes, trains, submits;
    uint64_t requeued;          /* EAGAIN / ENOBUFS: kept in order and tried again */
    uint64_t source_dropped;    /* EINVAL with a sticky source: sent again without it */
    uint64_t unreachable, refused, denied, too_big, no_buffers, other_errors;
};
#endif
