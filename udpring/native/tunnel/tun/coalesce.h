/* Coalescing on the way in: consecutive packets of one TCP or UDP flow reach the TUN device as one super-packet.
 *
 * The rule: segmenting a super-packet gives exactly the packets that came (segment.c does the reverse), and every checksum
 * was verified before. A packet that cannot join the super-packet of its flow ends it, so packets of a flow stay in order.
 * Payloads are written from the receive buffers, without a copy.
 *
 * Owner: the plane. Thread: the worker. Holds no memory of its own. */
#ifndef UDPRING_TUNNEL_TUN_COALESCE_H
#define UDPRING_TUNNEL_TUN_COALESCE_H
#include "tun.h"

enum {
    COALESCE_FLOWS = 16,        /* super-packets being built at once */
    COALESCE_PIECES = 64,       /* packets in one */
    COALESCE_BYTES = 65535,     /* its IP length */
    COALESCE_KINDS = 4,         /* TCP and UDP, over IPv4 and IPv6 */
    COALESCE_REFUSALS = 8,      /* so many in a row, and none taken between them: the device takes none of this kind */
};

/* A super-packet being built: the first packet's header, whose lengths are set when it is written, and the payloads. */
struct coalesce_flow {
    uint8_t *packet;            /* the first packet, with its headers */
    uint32_t header, transport; /* bytes of all headers, and where the transport header starts */
    uint32_t segment;           /* payload bytes of each packet but the last */
    uint32_t length;            /* of the super-packet so far */
    uint32_t next_sequence;     /* TCP */
    uint32_t hash;
    uint64_t begun;             /* which packet began it: the oldest flow makes room */
    uint8_t protocol;
    bool v6, ended;             /* ended: a short or PSH packet was the last */
    int count;                  /* parts used: [0] vnet header, [1] first packet, then payloads */
    struct iovec parts[1 + COALESCE_PIECES];
};

/* Which super-packets the device refuses. By kind (coalesce_kind()), and whether the last segment is short.
 * Owner: the coalescer it is embedded in. Thread: the worker. Nothing to free. */
struct coalesce_refusals {
    uint64_t count;             /* super-packets that were refused, and written again in pieces */
    uint8_t in_a_row[COALESCE_KINDS][2];   /* COALESCE_REFUSALS: no more of these are made */
    bool unreported[2];               /* a kind is no longer made: [0] at all, [1] with a short last segment. Cleared when reported */
};

struct coalescer {
    const struct tun *tun;
    uint64_t packets, super_packets, refused;   /* packets taken, super-packets written, packets that the device refused */
    struct coalesce_refusals refusals;
    uint32_t used;
    struct coalesce_flow flow[COALESCE_FLOWS];  /* the first `used` are open */
};

/* Takes an IP packet of exactly `length` bytes, which must stay as it is until coalesce_flush(). */
void coalesce_packet(struct coalescer *coalescer, uint8_t *packet, uint32_t length);
/* Writes all that is open. Afterwards the packets are the caller's again. */
void coalesce_flush(struct coalescer *coalescer);
#endif
