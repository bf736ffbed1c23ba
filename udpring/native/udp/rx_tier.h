/* Internal to the receive side: the functions of rx_deliver.c for the tiers, and the interface of each tier to rx.c. */
#ifndef UDPRING_UDP_RX_TIER_H
#define UDPRING_UDP_RX_TIER_H
#include "rx.h"
#include "slots.h"
#include "switches.h"
#include "tier.h"

#ifndef SOL_UDP
#define SOL_UDP 17
#endif
#ifndef UDP_GRO
#define UDP_GRO 104
#endif

#define UDP_RX_SLOTS_DEFAULT 64
#define UDP_RX_SLOTS_OF_MANY 256   /* the default with options.many */
#define UDP_RX_SLOTS_MAX 2048
#define UDP_RX_SLOT_BYTES_DEFAULT 65536
#define UDP_RX_SLOT_BYTES_MAX 65536
#define UDP_RX_CQ_ENTRIES_MAX 65536   /* the kernel's own limit */
#define UDP_RX_WATCHES 16
#define UDP_RX_ERRORS 16   /* power of two */

/* Room in each slot before the payload. The name is sockaddr_in6's 28 bytes, rounded up to keep the control data aligned. */
#define UDP_RX_NAME_BYTES 32
#define UDP_RX_CONTROL_BYTES 272

struct udp_rx_tier {
    uint32_t id;
    size_t bytes;                    /* of the tier's struct, which begins with struct udp_rx */
    uint32_t header_bytes;           /* room before the payload in each slot */
    int (*open)(struct udp_rx *rx, struct udpring_reason *why);
    /* Frees everything except the slots. False: receives into the slots did not end within the bound. Called once, also after a
     * failed open. */
    bool (*close)(struct udp_rx *rx);
    int (*wait)(struct udp_rx *rx, int64_t timeout_ns);
    void (*notify)(struct udp_rx *rx);       /* NULL: every harvest looks for packets anyway */
    unsigned (*harvest)(struct udp_rx *rx, struct udpring_packet *packets, unsigned max);
    void (*release)(struct udp_rx *rx, uint32_t slot);   /* only for slots that are held */
    int (*watch)(struct udp_rx *rx, int fd, uint32_t events, uint32_t token);
    /* As udp_rx_pollable, udp_rx_prepare_poll and udp_rx_pending. */
    int (*pollable)(struct udp_rx *rx, int event);
    bool (*prepare_poll)(struct udp_rx *rx);
    bool (*pending)(const struct udp_rx *rx);
};

extern const struct udp_rx_tier udp_rx_multishot, udp_rx_pool, udp_rx_mmsg;
/* The same for many sockets, see rx_set.h. */
extern const struct udp_rx_tier udp_rx_set_multishot, udp_rx_set_pool, udp_rx_set_mmsg;
struct udp_rx_set;

/* Owner: the caller of udp_rx_open. Thread: that one. Freed by udp_rx_close(). The tier's own struct embeds it first. */
struct udp_rx {
    const struct udp_rx_tier *tier;
    struct udpring_rx_stats stats;
    struct udp_slots slots;           /* slots of socket s: s * per_socket .. */
    uint8_t *held;                    /* [slots.count] 1 while the caller has it */
    uint32_t per_socket, slot_bytes, sockets;
    int fd[UDP_RX_SOCKETS_MAX];
    uint32_t drops[UDP_RX_SOCKETS_MAX];   /* the socket's count of drops, modulo 2^32 */
    struct udp_switch *gro[UDP_RX_SOCKETS_MAX], *timestamps[UDP_RX_SOCKETS_MAX];   /* to switch off at close. NULL: leave */
    struct udp_rx_set *set;           /* the sockets of options.many. Else NULL */
    bool gro_wanted, gro_may_fail, timestamps_wanted;   /* as in the options */
    uint32_t cq_entries;              /* as in the options */
    uint32_t forks;                   /* ur_fork_count() at open: a forked child does not change the sockets */
    int fatal;                        /* -errno that ends receiving, or 0 */
    struct { uint64_t packets; uint32_t count; } refused;   /* refusals in a row, since this many packets */
    uint32_t watched;                 /* tokens that fired */
    bool pollable, direct;            /* as in the options */
    bool passive;                     /* as in the options */
    bool look;                        /* direct: the next harvest tries every socket */
    bool short_of_memory;             /* at the last wait, or at a receive since */
    struct { int code[UDP_RX_ERRORS]; uint32_t head, count; } icmp;   /* the last errors that were not fetched yet */
    char reason[UDP_TIER_REASON_BYTES];
};

/* The parts of one received message, in the tier's memory. */
struct udp_rx_message {
    const struct sockaddr_storage *name;
    uint32_t name_length;
    const uint8_t *control;
    uint32_t control_length;
    uint32_t flags;                   /* MSG_TRUNC, MSG_CTRUNC */
    uint32_t socket;                  /* for packet.socket_index */
    uint32_t *drops;                  /* the socket's count of drops so far, modulo 2^32 */
};

/* The socket's count of drops up to now. 0 where the kernel does not tell. */
uint32_t udp_rx_drops_of(int fd);
/* Opens this tier without a check whether it works on this host. The options must be valid. */
int udp_rx_open_tier(struct udp_rx **rx, uint32_t tier, const struct udp_rx_options *options, struct udpring_reason *why) UR_MUST_CHECK;

/* Fills `packet`, marks the slot as held and counts. data and length must lie inside the slot. */
void udp_rx_deliver(struct udp_rx *rx, struct udpring_packet *packet, uint32_t slot, uint8_t *data, uint32_t length,
                    const struct udp_rx_message *message);

/* Keeps an errno for udp_rx_icmp_error. */
void udp_rx_keep_error(struct udp_rx *rx, int error);

/* Closes and passes the slots to a caller that still has data in them. base is NULL when receives did not end. The slots are
 * then leaked. */
bool udp_rx_close_keeping_slots(struct udp_rx *rx, struct udp_slots *slots);

enum udp_rx_error { UDP_RX_TRANSIENT, UDP_RX_ICMP, UDP_RX_FATAL };
/* Classifies and counts an errno of a receive. A fatal one is stored in rx->fatal. */
enum udp_rx_error udp_rx_fail(struct udp_rx *rx, int error);

#define UDP_RX_ERRORS_A_PASS 16   /* ICMP errors read from one socket before the next socket's turn */
/* Reads the error queue (IP_RECVERR) of a socket. Otherwise every poll would return POLLERR at once. Returns how many. */
unsigned udp_rx_drain_errors(int fd);
/* The same after a receive returned an error. With IP_RECVERR that error is also in the queue, and must count only once. */
void udp_rx_drain_reported(struct udp_rx *rx, int fd);
#endif
