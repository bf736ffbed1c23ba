/* The plane: one worker thread that owns a TUN device, the receive ring, the send ring, the peers and their keys (R4).
 *
 * One pass of the worker (worker.c):
 *   1. commands      what Python asked for, run here, between two packets (command.c, commands.c)
 *   2. inbound       receive ring -> open -> checks -> TUN            (inbound.c)
 *   3. outbound      TUN -> peer -> seal -> send ring                 (outbound.c)
 *   4. flush, reap   one enter for all that is to be sent; slots come back
 *   5. wait          on the receive ring: packets, the TUN device, the wake eventfd
 * There is no lock on this path: whatever the worker touches it alone touches; others ask by a command (command.c) and
 * hear by the mailbox (mailbox.c).
 *
 * Owner: Python's Plane object. Thread: all but the fields marked "any" are the worker's once it runs.
 * Freed by udpring_plane_close(). */
#ifndef UDPRING_TUNNEL_PLANE_H
#define UDPRING_TUNNEL_PLANE_H
#include <pthread.h>

#include "../udp/rx.h"
#include "../udp/socket.h"
#include "../udp/tx.h"
#include "abi.h"
#include "allowed_ips.h"
#include "coalesce.h"
#include "cookie_reply.h"
#include "index_table.h"
#include "mac.h"
#include "mailbox.h"
#include "peer.h"
#include "tun.h"

/* Sealed packets on their way out: one, or a train of equal size. The kernel may read them from push to reap.
 * Owner: the plane's free list, the open train, or the send ring while in flight. Thread: the worker. Freed with the plane. */
struct out_slot {
    uint8_t *memory;            /* [OUT_SLOT_BYTES] */
    uint32_t peer;              /* whom it goes to, UDPRING_PEER_NONE: a reply to a stranger */
    uint32_t packets;
    uint32_t in_flight;         /* operations that read from it, when a refused train was split; else 0 */
    struct udp_tx_item item;
};

/* A request to the worker. Lives on the caller's stack until done. */
struct command {
    int (*run)(struct udpring_plane *plane, void *argument);
    void *argument;
    struct command *next;
    int result;
    bool done;
};

enum { TOKEN_WAKE, TOKEN_TUN, TOKEN_WRITABLE };

struct udpring_plane {
    /* any thread */
    struct mailbox mailbox;
    int wake_fd;
    pthread_t thread;
    pthread_mutex_t command_lock;       /* protects command_* and started */
    pthread_cond_t command_done;
    struct command *command_first, *command_last;
    uint32_t command_waiting;           /* atomic: look at the list */
    bool started;                       /* the worker has set up its rings, or failed to */
    int start_result;
    struct udpring_reason start_reason;
    struct udpring_plane_options options;
    char name[16];
    char tier_reason[UDPRING_REASON_BYTES];
    uint32_t port;                      /* atomic */

    /* the worker's */
    bool quit, tun_gone;
    struct tun tun;
    int fd[2];                          /* IPv4, IPv6; -1: the host lacks it */
    uint8_t socket_of[2];               /* position among the sockets given to the rings */
    uint32_t fwmark;
    struct udp_rx *rx;
    struct udp_tx *tx;
    bool tun_ready, watching_tun, watching_wake, watching_writable;
    bool more_inbound;                  /* the last harvest was full */
    uint64_t now;                       /* CLOCK_BOOTTIME, once a pass */
    uint64_t mtu_checked_ns;

    uint8_t *tun_memory, *tun_packet;   /* what was read last; room before it and behind it */
    uint8_t *out_memory;
    int train;                          /* the slot that more packets may join, or -1 */
    struct out_slot out[OUT_SLOTS];
    uint32_t out_free[OUT_SLOTS];
    uint32_t out_free_count;

    struct peer **peers;                /* [peers_capacity] by slot */
    uint32_t peers_capacity, peers_count;
    uint32_t *peer_generation;          /* [peers_capacity] */
    struct coalescer coalescer;
    struct udpring_trie *trie;
    struct index_table indices;
    uint32_t kicked[KICKS_MAX];
    uint32_t kicked_count;
    size_t staged_bytes;

    struct mac_engine mac;
    bool has_identity;
    uint8_t mac1_key[32];
    uint8_t cookie_key[32];
    struct cookie_sealer cookie_sealer;
    uint8_t cookie_secret[2][32];       /* present, last */
    uint32_t cookie_secrets;
    uint64_t load_until_ns;

    struct udpring_plane_stats stats;
    struct udpring_rx_stats rx_before;  /* of rings that a re-bind closed */
    struct udpring_tx_stats tx_before;
};

static inline void plane_drop(struct udpring_plane *plane, enum udpring_drop reason)
{
    plane->stats.drops[reason]++;
}

/* peers.c */
struct peer *plane_peer(const struct udpring_plane *plane, uint32_t id);   /* NULL: no such peer (any more) */
int plane_peer_add(struct udpring_plane *plane, uint32_t *id) UR_MUST_CHECK;
void plane_peer_remove(struct udpring_plane *plane, struct peer *peer);
void plane_peers_free(struct udpring_plane *plane);

/* events.c */
void plane_post(struct udpring_plane *plane, uint32_t kind, uint32_t peer, int32_t result);
void plane_want_handshake(struct udpring_plane *plane, struct peer *peer);
void plane_post_handshake(struct udpring_plane *plane, const struct udpring_packet *packet, const uint8_t *message,
                          uint32_t length);
void peer_stamp_sent(struct udpring_plane *plane, struct peer *peer, uint32_t bytes, bool data);
void peer_stamp_received(struct udpring_plane *plane, struct peer *peer, uint32_t bytes);
void peer_stamp_data_received(struct udpring_plane *plane, struct peer *peer);
void peer_roam(struct peer *peer, const struct udpring_address *endpoint, const struct udpring_address *local,
               uint32_t interface_index);

/* outbound.c */
void outbound_pass(struct udpring_plane *plane);
void outbound_close_train(struct udpring_plane *plane);
void outbound_reap(struct udpring_plane *plane);
/* Sends what is staged for the peer as far as there is a key and room; else asks for a key. */
void outbound_flush_staged(struct udpring_plane *plane, struct peer *peer);
void outbound_kicked(struct udpring_plane *plane);
int outbound_keepalive(struct udpring_plane *plane, struct peer *peer);
int outbound_message(struct udpring_plane *plane, struct peer *peer, const uint8_t *bytes, uint32_t length, uint8_t tos,
                     const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index);
void outbound_drop_staged(struct udpring_plane *plane, struct peer *peer, enum udpring_drop reason);

/* inbound.c */
void inbound_packet(struct udpring_plane *plane, struct udpring_packet *packet);

/* worker.c */
void counters_add(void *into, const void *from, size_t bytes);
void *worker_main(void *plane);
int worker_bind(struct udpring_plane *plane, uint16_t *port, uint32_t fwmark, struct udpring_reason *why);

/* command.c */
int plane_call(struct udpring_plane *plane, int (*run)(struct udpring_plane *, void *), void *argument);
void plane_run_commands(struct udpring_plane *plane);
void plane_wake(struct udpring_plane *plane);
#endif
