/* The data model of the plane: worker threads, each with a queue of the TUN device, a receive ring and a send ring of its
 * own (R4), over one table of peers and their keys.
 *
 * One pass of a worker (worker.c):
 *   1. commands      requests of Python, run between two packets       (command.c, commands.c)
 *   2. inbound       receive ring -> open -> checks -> TUN            (inbox.c, inbound.c)
 *   3. outbound      TUN -> peer -> seal -> send ring                 (outbound.c)
 *   4. handshakes    messages on the handshake sockets                 (handshakes.c)
 *   5. flush, reap   one enter for all sends. Slots are free again
 *      help          a saturated worker that has called this one       (spread.c)
 *   6. wait          on the receive ring: packets, the TUN device, the wake eventfd
 *
 * Who may change what. A single worker (the default on small machines) owns everything, without locks. With several:
 *   - a struct worker belongs to its own thread.
 *   - the tables (peers, prefixes, indices, keypairs, endpoints) change only while all workers are stopped between two passes
 *     (gate.c). Worker 0 then runs commands, and the changes that packets asked for (changes.c). Within a pass the tables
 *     are read without a lock.
 *   - values that every packet changes are atomic (nonces, stamps, byte counts) or have a lock (replay window).
 *
 * Owner: Python's Plane object. Freed by udpring_plane_close(). */
#ifndef UDPRING_TUNNEL_WORKER_STATE_H
#define UDPRING_TUNNEL_WORKER_STATE_H
#include <netinet/in.h>
#include <pthread.h>

#include "../../udp/rx.h"
#include "../../udp/socket.h"
#include "../../udp/socket_split.h"
#include "../../udp/tx.h"

#include "../abi.h"
#include "../rate.h"

#include "../crypto/cookie_reply.h"
#include "../crypto/mac.h"

#include "../tun/coalesce.h"
#include "../tun/flow_queue.h"
#include "../tun/tun.h"

#include "../packets/ports.h"

#include "../routes/routes.h"

#include "../peers/allowed_ips.h"
#include "../peers/index_table.h"
#include "../peers/peer.h"
#include "../peers/wanted.h"

#include "handshake_threads.h"
#include "level.h"
#include "mailbox.h"
#include "moderation.h"
#include "pacing.h"
#include "shortage.h"
#include "sparse.h"
#include "time_slice.h"
#include "weight.h"

/* Sealed packets on their way out: one, or a train of equal size. The kernel may read them from push to reap.
 * Owner: the plane's free list, the open train, or the send ring while in flight. Thread: the worker. Freed with the plane. */
struct out_slot {
    uint8_t *memory;            /* [OUT_SLOT_BYTES] */
    uint32_t peer;              /* the receiver. UDPRING_PEER_NONE: a cookie reply to no peer */
    uint32_t packets;
    bool data;                  /* has packets other than keepalives and handshakes */
    uint32_t in_flight;         /* operations that read from it after a refused train was split. Else 0 */
    bool broken;                /* the cipher failed for one of its packets: none may leave */
    struct udp_tx_item item;
};

struct worker;
struct spread;

/* The sockets of handshake messages. Owner: worker 0 (the others' stay empty). Thread: its worker. Freed by handshakes_close(). */
struct handshakes {
    int fd[2];                  /* IPv4, IPv6. -1: the host lacks it, or data and handshakes share sockets */
    struct udp_rx *rx;          /* NULL: they share sockets. Always of tier mmsg: unread messages then overflow in the kernel */
    bool watching[2];
    bool more;                  /* a socket may hold messages */
    struct rate rate;           /* messages that may be looked at now */
    struct rate reads;          /* and datagrams that may be read */
    struct udpring_rx_stats before, seen;   /* as the worker's own: of closed ones, and as of the last pass */
};

/* Datagrams and trains that arrived and are not handled yet. Owner: the worker. Thread: its worker. Their buffers are the receive
 * ring's, freed by finish() (inbox.c), before that is closed. */
struct inbox {
    unsigned first, count;      /* packet[first] to packet[count - 1] are left */
    bool more;                  /* the receive ring may hold more */
    struct udpring_packet packet[RX_BATCH];
};

/* New sockets and rings for a worker. Owner: the thread that opens them, until they are adopted or discarded.
 * Thread: that worker's. Freed by worker_rings_discard(). */
struct worker_rings {
    int fd[2];                  /* -1: none. Likewise those of handshakes */
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
    pthread_mutex_t running;            /* held through a pass when there are several workers. See gate.c */

    bool quit;
    struct tun tun;                     /* its queue of the device. Else its descriptor is port->sent */
    struct packet_port *port;           /* in place of the device. NULL: there is one */
    struct spread *spread;              /* its jobs for helpers. NULL: it is the only worker */
    bool spread_on;                     /* helpers may seal and open for it (spread.h) */
    bool spread_pending;                /* jobs of this pass may be unfinished, so closed trains are held back */
    int fd[2];                          /* IPv4, IPv6. -1: the host lacks it */
    uint8_t socket_of[2];               /* position among the sockets given to the rings */
    struct udp_rx *rx;
    struct udp_tx *tx;
    bool no_tun;                        /* deliver nothing to the device: tun_gone, or there is a port */
    bool tun_ready, tun_gone, watching_tun, watching_wake, watching_writable[2];
    struct shortage shortage;
    int failed;                         /* it cannot go on: this is why (-errno) */
    struct inbox inbox;
    uint64_t now;                       /* CLOCK_BOOTTIME, once a pass */
    uint64_t mtu_checked_ns;
    struct moderation out_moderation, in_moderation;
    struct level datagram_rate;         /* UDP packets of both directions, alone or in trains */
    struct level bulk_rate;             /* bytes of both */
    struct level charge_rate;           /* `charge` */
    struct sparse sparse;
    struct pacing pacing;
    struct time_slice time_slice;
    struct own_weight weight;
    uint64_t single_datagrams;          /* read from the TUN device: UDP packets that were no super-packet */
    uint64_t datagram_buffers;          /* received, with UDP in them */
    uint64_t datagrams_out;             /* UDP packets delivered to the TUN device */
    uint64_t charge;                    /* bytes that sockets charge for single_datagrams and datagrams_out */

    struct flow_queue *flows;           /* of packets of the device. NULL: there is a port */
    uint8_t *out_memory;
    int train;                          /* the slot that more packets may join, or -1 */
    struct out_slot out[OUT_SLOTS];
    uint32_t out_free[OUT_SLOTS];
    uint32_t out_free_count;
    bool deferred;                       /* some peer's events are to be posted when the mailbox has room */
    uint32_t deferred_slot;              /* where to look for those first */
    struct staging_all staged;          /* of all peers */
    struct wanted_table *wanted;        /* NULL: there is no directory to ask */
    struct peer *ready_first, *ready_last;   /* peers whose staged packets may be sent when there are slots. `ready_first` is atomic */
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
    uint64_t trains_doubted_ns;         /* when this worker last asked about trains in the middle of a session */

    struct udpring_plane_stats stats;   /* read by others while it is stopped */
    struct udpring_rx_stats rx_before, rx_seen;   /* of rings that a re-bind closed. Of the present one as of the last pass */
    struct udpring_tx_stats tx_before, tx_seen;
};

/* A change of the tables that a packet asks for. */
struct change {
    enum { CHANGE_CONFIRM, CHANGE_ROAM, CHANGE_SOURCE_LOST } kind;
    uint32_t peer;
    uint32_t index;                     /* CONFIRM: our index of the keypair that was used first */
    uint32_t interface_index;           /* ROAM */
    struct udpring_address endpoint, local;   /* ROAM. SOURCE_LOST: the source */
};

/* The secret of the cookies that this node sends, and the secret before it, which stays valid for the same time.
 * Owner: the plane. Thread: read by any worker in a pass, changed by worker 0 while all are stopped. Freed and zeroised with
 * the plane. */
struct cookie_secrets {
    uint8_t secret[2][MAC_KEY_BYTES];   /* present, last */
    uint32_t count;                     /* 2: the last one is valid, too */
    uint64_t born_ns;
    uint32_t renew;                     /* atomic: worker 0 is to replace it */
};

struct udpring_plane {
    /* any thread */
    struct mailbox mailbox;
    pthread_mutex_t mailbox_lock;       /* the mailbox has one producer at a time */
    struct handshake_threads handshakes;    /* has a lock of its own */
    struct weight weight;               /* has a lock of its own */
    pthread_mutex_t command_lock;       /* protects all workers' command_* and started */
    pthread_cond_t command_done;
    struct udpring_plane_options options;
    char name[16];
    char tier_reason[UDPRING_REASON_BYTES];
    struct udpring_reason sharing_reason;   /* why handshakes have no sockets of their own. Empty: they have */
    uint32_t port;                      /* atomic */
    uint32_t worker_count;
    struct worker *workers;             /* [worker_count] */
    struct packet_ports *ports;         /* NULL: there is a TUN device */
    int group[WORKERS_MAX][2];          /* new sockets of the workers. Else -1 */
    int group_handshakes[2];                 /* new handshake sockets of worker 0. Else -1 */

    /* several workers only */
    pthread_mutex_t gate;               /* held by worker 0 while the others are stopped */
    uint32_t gate_shut;                 /* atomic: come to the gate before the next pass */
    pthread_mutex_t change_lock;        /* protects changes */
    struct change changes[CHANGES_MAX];
    uint32_t change_count;              /* atomic to look at */

    /* changed only while all workers are stopped. Read by all */
    uint32_t fwmark;
    uint32_t bound_to[2];               /* the interface that the sockets are bound to (ip vrf exec). 0: none */
    struct peer **peers;                /* [peers_capacity] by slot */
    uint32_t peers_capacity, peers_count;
    uint32_t *peer_generation;          /* [peers_capacity] */
    struct trie *trie;
    struct index_table indices;
    bool has_identity;
    bool roaming_watched;               /* ROAMED events are wanted (roaming.c) */
    bool some_singly;                   /* atomic: some peer gets no trains, or got none earlier. Workers look before they wait, too */
    uint8_t mac1_key[32];
    uint8_t cookie_key[32];
    struct cookie_secrets cookies;

    /* atomic */
    uint64_t load_until_ns;
    uint64_t data_ns;                   /* when data was moved last, within DATA_STAMP_NS */
    uint32_t tun_gone_posted;
    uint32_t refused_posted[2];         /* by UDPRING_REFUSED_* */
    struct routes routes;               /* has locks of its own */
    uint32_t deferred;                   /* wake the workers when the mailbox has room */
};

static inline bool plane_shared(const struct udpring_plane *plane)
{
    return plane->worker_count > 1;
}

static inline void plane_drop(struct worker *worker, enum udpring_drop reason)
{
    worker->stats.drops[reason]++;
}

/* By the IP header alone, which is enough for pacing and moderation. */
static inline bool plane_is_udp(const uint8_t *packet, uint32_t length)
{
    return length >= 20 && packet[packet[0] >> 4 == 6 ? 6 : 9] == IPPROTO_UDP;
}

#define PEER_SLOT_MASK (PEERS_MAX - 1u)

/* O(1). NULL: no such peer (any more). */
static inline struct peer *plane_peer(const struct udpring_plane *plane, uint32_t id)
{
    uint32_t slot = id & PEER_SLOT_MASK;
    if (slot >= plane->peers_capacity)
        return NULL;
    struct peer *peer = plane->peers[slot];
    return peer && peer->id == id ? peer : NULL;
}

static inline uint16_t plane_port(const struct udpring_plane *plane)
{
    return (uint16_t)__atomic_load_n(&plane->port, __ATOMIC_ACQUIRE);
}

/* Packets that all workers have staged for the peer. With all workers stopped. */
static inline uint32_t staged_count(const struct worker *worker, const struct peer *peer)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < worker->plane->worker_count; i++)
        count += peer->staging[i].count;
    return count;
}

/* Every worker writes stamps. Each is independent of the others, so the last write is right. */
static inline uint64_t stamp_get(const uint64_t *stamp)
{
    return __atomic_load_n(stamp, __ATOMIC_RELAXED);
}

static inline void stamp_put(uint64_t *stamp, uint64_t value)
{
    __atomic_store_n(stamp, value, __ATOMIC_RELAXED);
}

/* Counter structs hold nothing but uint64_t. */
static inline void counters_add(void *into, const void *from, size_t bytes)
{
    uint64_t *sum = into;
    const uint64_t *more = from;
    for (size_t i = 0; i < bytes / sizeof(*sum); i++)
        sum[i] += more[i];
}
#endif
