/* A peer in the data plane: keypairs, endpoint, stamps, staged packets. Its name, public key and timers are in Python (R3).
 * Owner: the plane's peer table. Thread: the worker alone. Freed by peer_remove(). */
#ifndef UDPRING_TUNNEL_PEERS_PEER_H
#define UDPRING_TUNNEL_PEERS_PEER_H
#include "../../base.h"

#include <pthread.h>

#include "../abi.h"
#include "../limits.h"

#include "../crypto/aead.h"
#include "../crypto/mac.h"
#include "../crypto/replay.h"

#include "index_table.h"
#include "staging.h"

/* How much one key may carry: each message counts one, and one block more than its padded plaintext has. */
struct key_limits {
    uint64_t rekey_messages, reject_messages;
    uint64_t rekey_blocks, reject_blocks;    /* UINT64_MAX: blocks are not counted */
};

/* The result of a handshake. Owner and thread: the caller of keypair_new(), which copies it. Nothing to free. */
struct keypair_spec {
    const uint8_t *keys;        /* 64 bytes: sending, receiving */
    enum udpring_cipher cipher;
    uint32_t local_index, remote_index;
    bool initiator;
    uint64_t birth_ns;
};

/* Owner: its peer, in one of three places. Thread: the worker. Freed by keypair_free(), which zeroises it. */
struct keypair {
    struct aead_key *sending[WORKERS_MAX], *receiving[WORKERS_MAX];   /* one a worker: a key is one thread's at a time */
    uint64_t counter;           /* atomic: next nonce */
    uint64_t blocks;            /* atomic: sealed so far, where the limits count them */
    struct key_limits limits;
    uint32_t data_type;         /* the type word of its messages, with the marking of its cipher */
    uint64_t birth_ns;
    uint32_t local_index, remote_index;
    uint32_t peer;
    bool initiator;
    bool may_send;              /* false: expired by a change of our private key */
    bool asked_on_receive;      /* atomic: one request for a new key per old one (kernel: sent_lastminute_handshake) */
    pthread_mutex_t window_lock;    /* protects window when there are several workers */
    struct replay_window window;
};

/* The last handshake message sent to a peer, as a cookie reply names it.
 * Owner: the peer. Thread: changed while all workers are stopped. `waits` is atomic. Nothing to free. */
struct cookie_awaited {
    bool waits;
    uint8_t mark[3];                    /* the bytes behind its type */
    uint8_t sender[4];                  /* its sender index */
    uint8_t mac1[MAC_BYTES];
    uint8_t key[MAC_KEY_BYTES];         /* HASH("cookie--" || the peer's public key) */
};

/* The longest segment of a train that a peer's route has taken. A longer one may still be refused (a smaller path MTU). */
typedef uint16_t trains_t;
#define TRAINS_NOT_ASKED ((trains_t)0)
#define TRAINS_REFUSED UINT16_MAX    /* no trains go to this peer */

struct peer {
    uint32_t id;
    bool post_activity;         /* atomic: the control loop suspended its timers: the next stamp posts ACTIVITY */
    uint8_t way;                /* enum way: where the route to its endpoint leads */
    uint8_t nesting;            /* enum nesting of nesting.c, for WAY_OTHER_TUNNEL */
    bool check_pending;         /* the watch thread has been asked for its route */
    struct udpring_address endpoint;
    struct udpring_address heard_on;   /* where its last authentic packet came to. Family 0: nowhere */
    uint32_t heard_by;          /* and the interface */
    uint32_t interface_index;   /* to send by. 0: the routes decide */
    struct udpring_address source;     /* to send from. Family 0: the kernel chooses (routes.h) */
    uint32_t leaves_by;         /* by the last look-up. 0: no route */
    uint32_t path_version;      /* raised when an input of the route look-up changes */
    uint64_t roamed_ns;         /* when ROAMED was last posted */
    struct keypair *previous, *current, *next;
    struct cookie_awaited cookie_awaited;
    /* atomic from here on */
    uint64_t rx_bytes, tx_bytes;
    uint64_t unanswered_since_ns, owed_since_ns, last_traversal_ns, last_received_ns, last_sent_ns;
    uint64_t wanted_ns;         /* when HANDSHAKE_WANTED was last posted */
    bool owed_again;
    bool loops;                 /* packets to it loop back (paths.c, nesting.c), which was reported */
    uint64_t came_back_ns;      /* when a message to it came out of our own TUN device, within CAME_BACK_LOOK_NS. 0: never */
    uint64_t nesting_asked_ns;  /* when NESTED was last posted. 0: the next packet asks */
    trains_t trains;            /* asked anew when it roams or has a new key */
    uint64_t probe_group, probe_ns;    /* train_probe.c: the keepalives that may be a probe, and when the first came */
    uint8_t probe_seen;         /* of that group, by place */
    uint8_t probe_awaits;       /* answers, by UDPRING_PROBE_* */
    bool probe_answers;         /* it answered the last probe */
    uint64_t probed_ns, trains_asked_ns, train_sent_ns;   /* when the last probe was sent, TRAINS posted, a train with data sent */
    /* changed while all workers are stopped. Either of them: trains stays TRAINS_REFUSED */
    bool sends_singly;          /* by configuration */
    bool trains_lost;           /* the route loses them */
    /* not atomic again */
    struct staging staging[];   /* [workers] */
};

/* 0, -ENOMEM, or -ENOTSUP: no library here has the cipher. */
int keypair_new(struct keypair **keypair, uint32_t workers, const struct keypair_spec *spec) UR_MUST_CHECK;
void keypair_free(struct keypair *keypair, struct index_table *indices);   /* NULL is fine */
/* None is below zero: a worker's clock is that of when its pass began, and the handshake may have ended since. */
static inline uint64_t keypair_age(const struct keypair *keypair, uint64_t now)
{
    int64_t age = (int64_t)(now - keypair->birth_ns);
    return age > 0 ? (uint64_t)age : 0;
}
static inline bool keypair_can_send(const struct keypair *keypair, uint64_t now)
{
    return keypair && keypair->may_send && keypair_age(keypair, now) < WG_REJECT_AFTER_TIME_NS &&
           __atomic_load_n(&keypair->counter, __ATOMIC_RELAXED) < keypair->limits.reject_messages &&
           __atomic_load_n(&keypair->blocks, __ATOMIC_RELAXED) < keypair->limits.reject_blocks;
}

/* From now on the route is asked again whether it takes trains. */
static inline void peer_trains_anew(struct peer *peer)
{
    __atomic_store_n(&peer->trains, peer->sends_singly || peer->trains_lost ? TRAINS_REFUSED : TRAINS_NOT_ASKED, __ATOMIC_RELAXED);
}

/* The kernel's rules of succession (noise.c add_new_keypair, wg_noise_received_with_keypair). */
void peer_keypair_add(struct peer *peer, struct keypair *keypair, struct index_table *indices);
/* The peer has used `next`, which becomes current. */
void peer_keypair_confirm(struct peer *peer, struct index_table *indices);
void peer_keypairs_erase(struct peer *peer, struct index_table *indices);
#endif
