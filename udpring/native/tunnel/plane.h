/* The plane: worker threads, each with a queue of the TUN device, a receive ring and a send ring of its own (R4), over one
 * table of peers and their keys.
 *
 * One pass of a worker (worker.c):
 *   1. commands      what Python asked for, run here, between two packets (command.c, commands.c)
 *   2. inbound       receive ring -> open -> checks -> TUN            (inbound.c)
 *   3. outbound      TUN -> peer -> seal -> send ring                 (outbound.c)
 *   4. handshakes    what came to the sockets of their own             (handshakes.c)
 *   5. flush, reap   one enter for all that is to be sent; slots come back
 *   6. wait          on the receive ring: packets, the TUN device, the wake eventfd
 *
 * Who may change what. With one worker (the default on small machines) everything is that thread's, and there is no lock.
 * With more:
 *   - what a worker has of its own (struct worker) it alone touches;
 *   - the tables (peers, prefixes, indices, keypairs, endpoints) change only while all workers stand between two passes:
 *     commands run so on worker 0, and what a packet wants changed (a new key is confirmed, a peer roams) is put off to
 *     such a moment (exclusive.c). Within a pass they are read without a lock;
 *   - what every packet changes is atomic (nonces, stamps, byte counts) or has its own lock (replay window).
 *
 * Owner: Python's Plane object. Freed by udpring_plane_close(). */
#ifndef UDPRING_TUNNEL_PLANE_H
#define UDPRING_TUNNEL_PLANE_H
#include <netinet/in.h>
#include <pthread.h>

#include "../udp/rx.h"
#include "../udp/socket.h"
#include "../udp/tx.h"
#include "abi.h"
#include "allowed_ips.h"
#include "coalesce.h"
#include "cookie_reply.h"
#include "cookies.h"
#include "handshakes.h"
#include "index_table.h"
#include "mac.h"
#include "mailbox.h"
#include "moderation.h"
#include "pacing.h"
#include "peer.h"
#include "shortage.h"
#include "routes.h"
#include "tun.h"

/* Sealed packets on their way out: one, or a train of equal size. The kernel may read them from push to reap.
 * Owner: the plane's free list, the open train, or the send ring while in flight. Thread: the worker. Freed with the plane. */
struct out_slot {
    uint8_t *memory;            /* [OUT_SLOT_BYTES] */
    uint32_t peer;              /* whom it goes to, UDPRING_PEER_NONE: a reply to a stranger */
    uint32_t packets;
    bool data;                  /* not only keepalives and handshakes */
    uint32_t in_flight;         /* operations that read from it, when a refused train was split; else 0 */
    struct udp_tx_item item;
};

struct worker;

/* Sockets and the rings on them, on their way to a worker. Owner: who opens them, until they are adopted or discarded.
 * Thread: that worker's. Freed by worker_rings_discard(). */
struct worker_rings {
    int fd[2];                  /* -1: none; likewise those of handshakes */
    uint8_t socket_of[2];
    struct udp_rx *rx;
    struct udp_tx *tx;
    struct handshakes handshakes;
};

/* A request to a worker. Owner: the caller, on whose stack it lives until done. Thread: under command_lock. Nothing to free. */
struct command {
    int (*run)(struct worker *worker, void *argument);
    void *argument;
    struct command *next;
    int result;
    bool done;
};

enum { TOKEN_WAKE, TOKEN_TUN, TOKEN_WRITABLE4, TOKEN_WRITABLE6, TOKEN_HANDSHAKE4, TOKEN_HANDSHAKE6 };

/* One thread of the plane. Owner: the plane. Thread: its own, but for the fields marked "any". Freed with the plane. */
struct worker {
    struct udpring_plane *plane;
    uint32_t number;                    /* 0 runs the commands */

    /* any thread */
    pthread_t thread;
    int wake_fd;
    struct command *command_first, *command_last;   /* under the plane's command_lock */
    uint32_t command_waiting;           /* atomic: look at the list */
    bool started;                       /* under command_lock: it has set up its rings, or failed to */
    int start_result;
    struct udpring_reason start_reason;
    pthread_mutex_t running;            /* held through a pass when there are several workers; see exclusive.c */

    bool quit;
    struct tun tun;                     /* its queue of the device */
    int fd[2];                          /* IPv4, IPv6; -1: the host lacks it */
    uint8_t socket_of[2];               /* position among the sockets given to the rings */
    struct udp_rx *rx;
    struct udp_tx *tx;
    bool tun_ready, tun_gone, watching_tun, watching_wake, watching_writable[2];
    struct shortage shortage;
    int failed;                         /* it cannot go on: this is why (-errno) */
    bool more_inbound;                  /* the last harvest was full */
    uint64_t now;                       /* CLOCK_BOOTTIME, once a pass */
    uint64_t mtu_checked_ns;
    struct moderation out_moderation, in_moderation;
    struct pacing pacing;
    uint64_t single_datagrams;          /* read from the TUN device: UDP packets that were no super-packet */
    uint64_t datagram_buffers;          /* received, with UDP in them */
    uint64_t datagrams_out;             /* UDP packets delivered to the TUN device */

    uint8_t *tun_memory, *tun_packet;   /* what was read last; room before it and behind it */
    uint8_t *out_memory;
    int train;                          /* the slot that more packets may join, or -1 */
    struct out_slot out[OUT_SLOTS];
    uint32_t out_free[OUT_SLOTS];
    uint32_t out_free_count;
    bool unheard;                       /* some peer's events are to be posted when the mailbox has room */
    uint32_t unheard_slot;              /* where to look for those first */
    struct staging_all staged;          /* of all peers */
    struct peer *kicked_first, *kicked_last;   /* whose staged packets are to be sent, when there are slots; first: atomic */
    struct coalescer coalescer;
    struct handshakes handshakes;       /* of worker 0: where those have sockets of their own */
    struct rate strays;                 /* handshake messages that may be looked at among data */
    struct mac_engine mac;
    struct cookie_sealer cookie_sealer;
    uint8_t nonces[COOKIE_NONCE_SUPPLY][COOKIE_NONCE_BYTES];   /* random, for cookie replies */
    uint32_t nonces_left;
    struct rate replies;                /* cookie replies that may be sent now */
    uint32_t replied_s[COOKIE_SENDERS]; /* by the first bits of the cookie, which no sender can choose: when, in seconds */
    uint64_t data_packets;              /* moved as of the last pass */

    struct udpring_plane_stats stats;   /* read by others while it stands */
    struct udpring_rx_stats rx_before, rx_seen;   /* of rings that a re-bind closed; of the present one as of the last pass */
    struct udpring_tx_stats tx_before, tx_seen;
};

/* What a packet wants changed in the tables. */
struct change {
    enum { CHANGE_CONFIRM, CHANGE_ROAM, CHANGE_SOURCE_LOST } kind;
    uint32_t peer;
    uint32_t index;                     /* CONFIRM: our index of the keypair that was used first */
    uint32_t interface_index;           /* ROAM */
    struct udpring_address endpoint, local;   /* ROAM; SOURCE_LOST: the source */
};

struct udpring_plane {
    /* any thread */
    struct mailbox mailbox;
    pthread_mutex_t mailbox_lock;       /* the mailbox has one producer at a time */
    pthread_mutex_t command_lock;       /* protects all workers' command_* and started */
    pthread_cond_t command_done;
    struct udpring_plane_options options;
    char name[16];
    char tier_reason[UDPRING_REASON_BYTES];
    struct udpring_reason sharing_reason;   /* why handshakes have no sockets of their own; empty: they have */
    uint32_t port;                      /* atomic */
    uint32_t worker_count;
    struct worker *workers;             /* [worker_count] */
    int group[WORKERS_MAX][2];          /* sockets on their way to their workers; else -1 */
    int group_apart[2];                 /* those of handshakes, on their way to worker 0; else -1 */

    /* several workers only */
    pthread_mutex_t gate;               /* held by worker 0 while the others must stand */
    uint32_t gate_shut;                 /* atomic: come to the gate before the next pass */
    pthread_mutex_t change_lock;        /* protects changes */
    struct change changes[CHANGES_MAX];
    uint32_t change_count;              /* atomic to look at */

    /* changed only while all workers stand; read by all */
    uint32_t fwmark;
    uint32_t bound_to[2];               /* the interface that the sockets are bound to (ip vrf exec); 0: none */
    struct peer **peers;                /* [peers_capacity] by slot */
    uint32_t peers_capacity, peers_count;
    uint32_t *peer_generation;          /* [peers_capacity] */
    struct udpring_trie *trie;
    struct index_table indices;
    bool has_identity;
    uint8_t mac1_key[32];
    uint8_t cookie_key[32];
    struct cookie_secrets cookies;

    /* atomic */
    uint64_t load_until_ns;
    uint64_t data_ns;                   /* when data was moved last, within DATA_STAMP_NS */
    uint32_t tun_gone_posted;
    uint32_t refused_posted[2];         /* by UDPRING_REFUSED_* */
    struct routes routes;               /* has locks of its own */
    uint32_t unheard;                   /* some worker is to be told when the mailbox has room */
};

static inline bool plane_shared(const struct udpring_plane *plane)
{
    return plane->worker_count > 1;
}

static inline void plane_drop(struct worker *worker, enum udpring_drop reason)
{
    worker->stats.drops[reason]++;
}

/* By the IP header alone: good enough to tell what paces itself from what may not. */
static inline bool plane_is_udp(const uint8_t *packet, uint32_t length)
{
    return length >= 20 && packet[packet[0] >> 4 == 6 ? 6 : 9] == IPPROTO_UDP;
}

/* peers.c */
struct peer *plane_peer(const struct udpring_plane *plane, uint32_t id);   /* NULL: no such peer (any more) */
int plane_peer_add(struct udpring_plane *plane, uint32_t *id) UR_MUST_CHECK;
void plane_peer_remove(struct udpring_plane *plane, struct peer *peer);
void plane_peers_free(struct udpring_plane *plane);

/* events.c */
/* Where the mailbox is full: when it has room. */
void plane_post(struct worker *worker, uint32_t kind, struct peer *peer);
void plane_post_later(struct worker *worker, uint32_t kind, struct peer *peer);
void plane_post_unheard(struct worker *worker);  /* of each pass */
bool plane_unheard_due(const struct worker *worker);   /* false: nothing waits, or whoever makes room wakes this worker */
void plane_post_end(struct worker *worker, uint32_t kind, int32_t result);   /* never lost; once a worker, or plane */
void plane_see_data(struct worker *worker);      /* at the end of a pass */
void plane_tell_refusals(struct worker *worker); /* of each pass: that super-packets are no longer made, once a plane */
bool plane_data_flows(const struct worker *worker);
void plane_under_load(struct worker *worker);    /* from now on, for a second */
bool plane_is_under_load(const struct worker *worker);
bool plane_want_handshake(struct worker *worker, struct peer *peer);   /* false: the mailbox is full */
/* A handshake message of the right length. What it takes beyond look-ups is paid from `rate`. */
void plane_post_handshake(struct worker *worker, const struct udpring_packet *packet, const uint8_t *message,
                          uint32_t length, struct rate *rate);
/* A message of the peer is about to be sent: whatever becomes of it (kernel: wg_timers_any_authenticated_packet_sent). */
void peer_stamp_sent(struct worker *worker, struct peer *peer);
/* The kernel took so many bytes of its messages (kernel: tx_bytes, wg_timers_data_sent). */
void peer_stamp_taken(struct worker *worker, uint32_t id, uint32_t bytes, bool data);
void peer_stamp_received(struct worker *worker, struct peer *peer, uint32_t bytes);
void peer_stamp_data_received(struct worker *worker, struct peer *peer);

/* exclusive.c */
void exclusive_enter(struct worker *worker);     /* a pass begins: waits while worker 0 has the tables */
void exclusive_leave(struct worker *worker);
void exclusive_begin(struct udpring_plane *plane);   /* worker 0, between passes: the others stand until ... */
void exclusive_end(struct udpring_plane *plane);
/* The change is made now if this is the only worker, else at the next moment when all stand. */
void plane_change(struct worker *worker, const struct change *change);
void plane_run_changes(struct worker *worker);

/* paths.c. By Python's thread between two commands, or on worker 0. */
void path_query_of(const struct udpring_plane *plane, int family, struct path_query *query);
/* These on worker 0, with all workers standing. */
/* An authentic packet came so; until its path is known it is answered from where it came to. */
void peer_roam(struct udpring_plane *plane, struct peer *peer, const struct udpring_address *endpoint,
               const struct udpring_address *local, uint32_t interface_index);
void peer_ask_path(struct udpring_plane *plane, struct peer *peer);
/* routes_changed: the control loop is to know, if it waits for something of the peer's. */
void peer_take_path(struct worker *worker, struct peer *peer, const struct path *path, bool routes_changed);
void peer_forget_source(struct udpring_plane *plane, struct peer *peer);   /* until it is heard again */
void peer_source_lost(struct peer *peer, const struct udpring_address *source);   /* the kernel refuses it */
/* By any worker, for a peer whose packets go through our own TUN device: whether they come back, and are to be dropped. */
bool path_loops(struct worker *worker, struct peer *peer);
static inline bool peer_loops(struct worker *worker, struct peer *peer)
{
    return ur_unlikely(peer->through_tunnel) && path_loops(worker, peer);
}

/* outbound.c */
/* Whether there are slots for all that one read of the TUN device may become. */
static inline bool outbound_has_room(const struct worker *worker)
{
    bool singly = worker->plane->options.flags & UDPRING_PLANE_NO_UDP_OFFLOAD || worker->stats.trains_split;
    return worker->out_free_count > (singly ? OUT_SLOTS_SINGLY : OUT_SLOTS_RESERVED);
}
int outbound_pass(struct worker *worker) UR_MUST_CHECK;   /* 0, or why the TUN device could not be read */
void outbound_close_train(struct worker *worker);
bool outbound_reap(struct worker *worker);       /* true: refused trains were pushed again in pieces, flush them */
/* Seals a packet for the peer onto its train. The peer has an endpoint and a key that may send. Behind the packet there is
 * room for WG_PADDING bytes, which are as before when this returns. -ENOBUFS: no slot; else the packet is dealt with. */
int outbound_seal(struct worker *worker, struct peer *peer, uint8_t *packet, uint32_t length) UR_MUST_CHECK;
int outbound_message(struct worker *worker, struct peer *peer, const uint8_t *bytes, uint32_t length, uint8_t tos,
                     const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index);

/* staged.c. By the worker that has read the packet: behind those that wait already, and sends what can be sent. */
void staged_put(struct worker *worker, struct peer *peer, const uint8_t *packet, uint32_t length);
void staged_kicked(struct worker *worker);       /* of each pass, before the TUN device is read */
void staged_flush(struct worker *worker, struct peer *peer);   /* sends what there is a key for; else asks for one */
/* All these on worker 0, with all workers standing. */
uint32_t staged_count(const struct worker *worker, const struct peer *peer);
/* There is a key: what any worker has staged may leave. True: some has left, or is about to. */
bool staged_release(struct worker *worker, struct peer *peer);
void staged_drop(struct worker *worker, struct peer *peer, enum udpring_drop reason);
void staged_peer_gone(struct worker *worker, struct peer *peer);
int staged_keepalive(struct worker *worker, struct peer *peer);

/* inbound.c */
/* Handshake messages in it are paid for from `rate`. */
void inbound_packet(struct worker *worker, struct udpring_packet *packet, struct rate *rate);

/* worker.c */
void counters_add(void *into, const void *from, size_t bytes);
void worker_see_counters(struct worker *worker);
void *worker_main(void *worker);
/* Opens rings on those sockets. On failure, too: discard it. */
int worker_rings_open(struct worker *worker, struct worker_rings *rings, struct udpring_reason *why) UR_MUST_CHECK;
void worker_rings_discard(struct worker_rings *rings);   /* also the sockets */
/* Takes these in place of its own. On failure, too, but then it cannot go on. */
int worker_adopt(struct worker *worker, const struct worker_rings *rings, struct udpring_reason *why) UR_MUST_CHECK;
int worker_memory_open(struct worker *worker) UR_MUST_CHECK;
void worker_memory_close(struct worker *worker);

/* bind.c: sockets for all workers, and for handshakes where the kernel can tell them apart (else `apart` stays -1) */
int plane_open_sockets(struct udpring_plane *plane, int (*group)[2], int apart[2], uint16_t *port, uint32_t fwmark,
                       struct udpring_reason *why) UR_MUST_CHECK;

void plane_see_binding(struct udpring_plane *plane);   /* of worker 0's sockets */

/* command.c */
int worker_call(struct worker *worker, int (*run)(struct worker *, void *), void *argument);
/* On worker 0, with all workers standing. */
int plane_call(struct udpring_plane *plane, int (*run)(struct worker *, void *), void *argument);
void worker_run_commands(struct worker *worker);
void worker_wake(struct worker *worker);
#endif
