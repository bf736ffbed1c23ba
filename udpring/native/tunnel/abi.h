/* The interface of the tunnel to Python: the plane (workers, peers, keys, routes), ciphers, and messages of rtnetlink. */
#ifndef UDPRING_TUNNEL_ABI_H
#define UDPRING_TUNNEL_ABI_H
#include "../udp/abi.h"

/* ---- limits that Python checks or shows too. limits.h has the others ---- */
#define UDPRING_PEERS_MAX 65536        /* of a plane. As wireguard-go (device/constants.go, MaxPeers). A power of two */
#define UDPRING_WORKERS_MAX 16         /* of a plane */
#define UDPRING_LOOP_HOPS_MAX 16       /* tunnels within this tunnel */
#define UDPRING_ROAMED_MS 1000         /* between two ROAMED events of a peer */

/* ---- ciphers of a session. messages.h says how their messages differ ---- */
enum udpring_cipher {
    UDPRING_CIPHER_CHACHA20_POLY1305,  /* WireGuard's */
    UDPRING_CIPHER_AES_256_GCM,        /* between nodes of this program, where both ends are set so */
    UDPRING_CIPHER_COUNT
};

/* ---- features of TUN devices on this host, found by making one for a moment ---- */
/* Owner, thread and freed: the caller's. */
struct udpring_tun_facts {
    uint32_t offloads;                  /* TUN_F_*: the super-packets it takes */
    uint8_t multi_queue;                /* more than one queue, for several workers */
    uint8_t steered;                    /* and our program chooses among them */
    uint8_t unseen;                     /* it was made in a network namespace of its own */
    struct udpring_reason queues_why, steer_why;   /* why not */
};
/* 0, or -errno if no device can be made. `why` names the cure. The device is removed again. */
int32_t udpring_tun_probe(struct udpring_tun_facts *facts, struct udpring_reason *why);

/* ---- AEAD, one table of implementations: an entry for each cipher of each library ---- */
int32_t udpring_aead_count(void);
const char *udpring_aead_name(int32_t which);      /* the library: "openssl", ... ; NULL past the end */
int32_t udpring_aead_cipher(int32_t which);        /* UDPRING_CIPHER_*; -EINVAL past the end */
int32_t udpring_aead_chosen(int32_t cipher);       /* the one in use, self-tested at load. -EINVAL: no such cipher */
/* Known-answer self-test (the published vector and tampered copies): 0, or -EBADMSG with the reason. */
int32_t udpring_aead_selftest(int32_t which, struct udpring_reason *why);
/* Why the chosen one was chosen, or why there is none (udpring_aead_chosen is then -ENOTSUP). */
const char *udpring_aead_why(int32_t cipher);

/* ---- allowed IPs ---- */
#define UDPRING_PEER_NONE 0xffffffffu
/* prefix.remove */
#define UDPRING_PREFIX_ADD 0      /* another peer that has the prefix loses it */
#define UDPRING_PREFIX_REMOVE 1   /* if this peer has it */
#define UDPRING_PREFIX_CLAIM 2    /* add it, if no other peer has it: else -EEXIST */
struct udpring_prefix {
    uint8_t ip[16];       /* network order. Host bits are masked off on insertion */
    uint16_t family;      /* AF_INET, AF_INET6 */
    uint8_t cidr;
    uint8_t remove;       /* UDPRING_PREFIX_* */
    uint32_t peer;
};

/* ---- rtnetlink messages ---- */
struct udpring_route_query {
    struct udpring_address to, from;    /* from: family 0: none */
    uint32_t interface_index;           /* 0: any */
    uint32_t mark;
    uint16_t from_port;                 /* 0: none */
};
struct udpring_route_answer {
    uint32_t interface_index;           /* packets leave by it */
    uint8_t local;                      /* the destination is an address of this host */
};
/* Writes at most 256 bytes and returns how many. */
int32_t udpring_route_request(const struct udpring_route_query *query, uint32_t sequence, uint8_t *request);
/* 0. -ENODATA: no answer with this number. Else the -errno that the answer holds. */
int32_t udpring_route_answer(const uint8_t *bytes, uint32_t length, uint32_t sequence, struct udpring_route_answer *answer);

/* ---- why a packet was dropped: one counter each ---- */
/* The numbers and the names (drops.c) are both made of this list. */
#define UDPRING_DROPS(each) \
    each(TOO_SHORT, "too_short")               /* in: not as long as its type says, or shorter than any message */ \
    each(BAD_TYPE, "bad_type")                 /* in: unknown type, or reserved bytes neither zero nor a marking */ \
    each(TRUNCATED, "truncated")               /* in: longer than our buffers */ \
    each(BAD_MAC1, "bad_mac1")                 /* in: handshake message without a valid mac1 */ \
    each(BAD_MAC2, "bad_mac2")                 /* in, under load: no valid mac2. Answered with a cookie reply while there are slots, and tokens */ \
    each(NO_IDENTITY, "no_identity")           /* in: no private key yet */ \
    each(BAD_COOKIE, "bad_cookie")             /* in: a cookie reply that is not authentic, or answers no message of this node */ \
    each(UNKNOWN_INDEX, "unknown_index")       /* in: no peer has the receiver index, or none that waits for a response */ \
    each(CIPHER_MISMATCH, "cipher_mismatch")   /* in: marked for another cipher than its keypair has */ \
    each(KEY_EXPIRED, "key_expired")           /* in: keypair past REJECT_AFTER_TIME or REJECT_AFTER_MESSAGES */ \
    each(REPLAYED, "replayed")                 /* in: counter seen before or behind the window */ \
    each(UNAUTHENTICATED, "unauthenticated")   /* in: the tag is wrong, or an initiation's ephemeral key has small order */ \
    each(BAD_INNER, "bad_inner")               /* in: inner packet has a bad version or length */ \
    each(SPOOFED, "spoofed")                   /* in: inner source is not the peer's by allowed-IPs */ \
    each(ECN, "ecn")                           /* in: congestion marked on the outer packet, inner not capable (RFC 6040) */ \
    each(TUN_FULL, "tun_full")                 /* in: the TUN device did not take it */ \
    each(MAILBOX_FULL, "mailbox_full")         /* in: the control loop or the handshake threads lag behind */ \
    each(FLOODED, "flooded")                   /* in: no data, and more than is looked at in a second, or no message: mostly the kernel's drops */ \
    each(NO_PEER, "no_peer")                   /* out: no peer's allowed-IPs has the destination */ \
    each(PEER_REFUSED, "peer_refused")         /* out: the directory has no peer for the destination, or did not answer in time */ \
    each(WANTED_FULL, "wanted_full")           /* out: too many questions to the directory, or packets that wait for its answer */ \
    each(NO_ENDPOINT, "no_endpoint")           /* out: the peer's address is not known */ \
    each(STAGING_FULL, "staging_full")         /* out: staged too long a queue, oldest dropped */ \
    each(HANDSHAKE_FAILED, "handshake_failed") /* out: staged when the handshake was given up */ \
    each(BAD_OUTER, "bad_outer")               /* out: not an IPv4 or IPv6 packet, or not as long as its header says */ \
    each(SEND_FAILED, "send_failed")           /* out: the socket refused it (see tx stats) */ \
    each(ROUTING_LOOP, "routing_loop")         /* out: the route to the peer's endpoint leads back to the peer, through this tunnel, or may do so */ \
    each(QUEUE_FULL, "queue_full")              /* out: the queue of a packet socket overflowed, or held what it cannot give */ \
    each(PROGRAM_FULL, "program_full")         /* in: the program does not read its packets fast enough (udpring_plane_packets_receive) */ \
    each(TOO_BIG, "too_big")                   /* out: a packet of the program is longer than the MTU */ \
    each(CODEL, "codel")                       /* out: it waited too long for a send, and its sender does not support ECN (RFC 8289) */

enum udpring_drop {
#define UDPRING_DROP_NUMBER(symbol, name) UDPRING_DROP_##symbol,
    UDPRING_DROPS(UDPRING_DROP_NUMBER)
    UDPRING_DROP_COUNT
};
const char *udpring_drop_name(int32_t reason);   /* "too_short", ...; NULL past the end */

/* ---- the plane ---- */
struct udpring_plane;

/* options.flags */
#define UDPRING_PLANE_NO_TUN_OFFLOAD 1   /* no super-packets from or to the interface */
#define UDPRING_PLANE_NO_UDP_OFFLOAD 2   /* no trains (UDP_SEGMENT, UDP_GRO) */
#define UDPRING_PLANE_ASKS 4             /* there is a directory: a packet without a peer posts PEER_WANTED */
#define UDPRING_PLANE_PACKETS 8          /* no TUN device: the program sends and receives the packets itself */
#define UDPRING_PLANE_NO_TRAINS 16       /* sends none (UDP_SEGMENT), still receives them */
#define UDPRING_PLANE_CONFINED 32        /* works on after io_uring_setup(2) is denied, and its rings are restricted (confined.h) */

struct udpring_plane_options {
    char name[16];              /* interface name. May hold %d unless descriptors are given */
    int32_t fds[UDPRING_WORKERS_MAX];   /* to use instead of a new TUN device, one a worker: all of one TUN device, or packet */
    uint32_t fd_count;                  /* sockets at the far end of the interface called `name` (tun_packet.c). Duplicated */
    int32_t query_fd;           /* with packet sockets, or a TUN device of another namespace: any socket of the interface's, which */
                                /* answers for its MTU. Duplicated. -1: none. Without fds it is not looked at */
    uint32_t mtu;               /* of a new interface. 0 = 1420 */
    uint32_t tier;              /* UDPRING_TIER_* */
    uint32_t slots;             /* receive slots per socket. 0 = default */
    uint32_t mailbox;           /* events. 0 = 4096 */
    uint32_t fwmark;            /* SO_MARK of the sockets. 0 = off */
    uint16_t listen_port;       /* 0: chosen by the kernel, see udpring_plane_port */
    uint16_t flags;             /* UDPRING_PLANE_* */
    uint32_t workers;           /* threads, each with a queue and rings of its own. 0: by the cores present. At most 16 */
    uint32_t packets_out_bytes, packets_in_bytes;   /* of a worker's queues with UDPRING_PLANE_PACKETS. Powers of two */
};

/* events */
enum udpring_event_kind {
    UDPRING_EVENT_HANDSHAKE = 1,     /* a message with a valid mac1, or an authentic cookie reply: bytes, source, local, flags */
    UDPRING_EVENT_HANDSHAKE_WANTED,  /* peer: there is something to send and no fresh key, or the key grows old */
    UDPRING_EVENT_KEY_CONFIRMED,     /* peer: first data on the next keypair (responder): the session is live */
    UDPRING_EVENT_ACTIVITY,          /* peer: something for its timers happened while they were suspended */
    UDPRING_EVENT_TUN_GONE,          /* the interface was deleted */
    UDPRING_EVENT_FATAL,             /* the worker cannot go on: result holds -errno */
    UDPRING_EVENT_COALESCING_REFUSED, /* the device refuses super-packets, which are no longer made. result: see below */
    UDPRING_EVENT_PATH,              /* peer, which waits for something: packets leave by another way now, or a loop began or ended */
    UDPRING_EVENT_PEER_WANTED,       /* packets wait for a peer with the address in source. Answer: its allowed IPs, or _refuse */
    UDPRING_EVENT_NESTED,            /* peer, reached through another tunnel: it gets packets of a tunnel. Answer: udpring_plane_nested */
    UDPRING_EVENT_ROAMED,            /* peer: authentic packets come from source now, before from local (family 0: read the state) */
    UDPRING_EVENT_OVERLOAD,          /* the plane is under load: udpring_plane_load_until says until when */
    UDPRING_EVENT_TRAINS,            /* peer: trains leave for it, and the route may lose them: udpring_plane_peer_probe */
    UDPRING_EVENT_PROBE_ANSWERED     /* peer. result: UDPRING_PROBE_* */
};
#define UDPRING_PROBE_TRAIN 0     /* sent first: counters rise on the wire */
#define UDPRING_PROBE_SINGLES 1
#define UDPRING_REFUSED_ALL 0          /* event.result: of some protocol, all */
#define UDPRING_REFUSED_SHORT_LAST 1   /* those whose last segment is shorter than the others */
#define UDPRING_EVENT_UNDER_LOAD 1   /* event.flags: the mailbox was an eighth full within the last second */
#define UDPRING_EVENT_MAC2_VALID 2   /* event.flags: mac2 is valid under the present or the last cookie secret */
#define UDPRING_EVENT_LOOPS 4        /* event.flags of PATH: packets to the peer come back, and are dropped */
#define UDPRING_MESSAGE_MAX 148

struct udpring_handshake;            /* crypto/abi.h */

/* Who takes an event with a handshake frees that. */
struct udpring_event {
    uint32_t kind;
    uint32_t peer;               /* UDPRING_PEER_NONE if not known. Handshake responses and cookie replies: who owns the receiver index */
    uint32_t flags;
    int32_t result;
    uint32_t length;             /* of message */
    uint32_t interface_index;
    struct udpring_address source, local;
    uint64_t now_ns;             /* boot time at arrival */
    struct udpring_handshake *handshake;   /* of an initiation that a handshake thread has opened. Else NULL */
    uint32_t key_number;         /* of the key that it was opened with */
    uint8_t message[UDPRING_MESSAGE_MAX];
};

/* The state of a peer in the plane. Times: CLOCK_BOOTTIME ns, 0 = never / none. */
struct udpring_peer_state {
    uint32_t peer;
    uint32_t staged;                  /* packets waiting for a key */
    uint64_t rx_bytes, tx_bytes;      /* UDP payload bytes of authenticated traffic, handshakes included */
    uint64_t unanswered_since_ns;     /* first data sent since the last authenticated receive */
    uint64_t owed_since_ns;           /* first data received since the last authenticated send */
    uint64_t last_traversal_ns;       /* any authenticated packet, either way */
    uint64_t last_received_ns;        /* any authenticated packet in */
    uint64_t last_sent_ns;            /* any authenticated packet out */
    uint64_t session_birth_ns;        /* of the current keypair. 0 = none */
    uint64_t send_counter;            /* next nonce of the current keypair */
    uint32_t owed_again;              /* 1: data arrived while the passive keepalive was pending */
    uint32_t interface_index;
    struct udpring_address endpoint;  /* family 0: unknown */
    struct udpring_address source;    /* sticky. Family 0: none */
};

/* How often something had which size. buckets[i] counts sizes of at most 2^i that are above those of the bucket before. The
 * last one also counts all larger sizes. */
#define UDPRING_HISTOGRAM_BUCKETS 16
struct udpring_histogram {
    uint64_t buckets[UDPRING_HISTOGRAM_BUCKETS];
    uint64_t sum;               /* of the sizes */
};

struct udpring_plane_stats {
    uint64_t tun_packets_in, tun_bytes_in, tun_packets_out, tun_bytes_out;
    uint64_t passes, commands, events, events_lost;
    uint64_t trains_split;      /* trains that a route refused, sent again as single datagrams */
    uint64_t super_packets_split;   /* super-packets that the TUN device refused, written again as single packets */
    uint64_t shortages;         /* passes that failed for lack of memory or room, and were tried again */
    uint64_t pauses;            /* passes put off for a moment, so that datagrams gather */
    uint64_t yields;            /* times that a worker yielded the CPU to readers of its packets */
    uint64_t congestion_marks;  /* packets and super-packets that waited too long for a send, and were marked (RFC 8289, RFC 3168) */
    uint64_t trains_helped;     /* super-packets and trains that a worker sealed or opened for a saturated one */
    uint64_t help_trials;       /* times that help of a saturated worker was switched on */
    uint64_t route_notices, route_sweeps;     /* messages from rtnetlink, and look-ups of all peers' routes */
    uint64_t route_lookups, route_failures;   /* questions to the routing tables, and those without an answer */
    uint64_t drops[32];               /* by enum udpring_drop */
    /* Datagrams that the data sockets gave, and took, in one pass. Passes without any are not counted. */
    struct udpring_histogram receive_batches, send_batches;
    struct udpring_histogram receive_trains, send_trains;   /* datagrams of a train (UDP_GRO, UDP_SEGMENT) */
    uint32_t tier, aead, peers, prefixes, keypairs, mailbox_depth, workers;
    uint32_t handshake_sockets; /* 0: handshakes and data share sockets, see udpring_plane_sharing_reason */
    uint32_t mailbox_capacity;
    uint32_t send_slots, sends_pending;   /* of the send rings, together */
    uint32_t staged_bytes;      /* of packets that wait for a handshake */
    uint32_t wanted_bytes;      /* of packets that wait for a directory's answer */
    uint64_t receive_queue_bytes, receive_queue_limit;   /* memory of datagrams in the data sockets, now and at most */
    uint64_t program_out_bytes, program_in_bytes;        /* of packets in the queues from and to the program */
    uint32_t flow_packets, flow_bytes;   /* packets and super-packets of the interface that wait for a send */
    int32_t nice;               /* the nice value that the workers, or their session, were given. 0: the usual one is in force */
    uint32_t tun_offloads;      /* TUN_F_*: the super-packets that the kernel hands over. 0: single packets only */
    struct udpring_rx_stats rx;
    struct udpring_tx_stats tx;
};

/* How many workers a plane has that is asked for this number. 0: by the cores present. */
uint32_t udpring_plane_workers(uint32_t asked);
/* Opens TUN and sockets in the caller's network namespace and starts the worker, which stays in it.
 * NULL with errno code in *code and the cause in why. */
/* Loads the program that keeps a flow on one queue, for planes that this process opens after it gave up CAP_BPF. 0 or -errno.
 * Call it before there is another thread. */
int32_t udpring_steering_load(void);
struct udpring_plane *udpring_plane_open(const struct udpring_plane_options *options, int32_t *code, struct udpring_reason *why);
void udpring_plane_close(struct udpring_plane *plane);
const char *udpring_plane_name(const struct udpring_plane *plane);     /* the interface name as the kernel gave it */
uint16_t udpring_plane_port(const struct udpring_plane *plane);         /* the port both sockets are bound to */
const char *udpring_plane_tier_reason(const struct udpring_plane *plane);
/* Why handshakes have no sockets of their own, so that a flood of them costs data. Empty when they have. */
const char *udpring_plane_sharing_reason(const struct udpring_plane *plane);
/* The TUN device, the plane's own: to poll, never to read or write. Writable while the interface is up. */
int32_t udpring_plane_tun_fd(const struct udpring_plane *plane);
/* Why routes are not looked up, so that sources are used unchecked. Empty when they are. */
const char *udpring_plane_routes_reason(const struct udpring_plane *plane);
int32_t udpring_plane_eventfd(const struct udpring_plane *plane);      /* readable while events wait */
/* Clears the eventfd, takes up to max events. Never blocks. Call until it returns less than max. */
uint32_t udpring_plane_events(struct udpring_plane *plane, struct udpring_event *out, uint32_t max);

/* ---- packets of the program, with UDPRING_PLANE_PACKETS: by one thread at a time ---- */
#define UDPRING_PACKETS_BYTES_MIN 524288       /* of a queue: powers of two */
#define UDPRING_PACKETS_BYTES_MAX 1073741824

/* Packets to send. The caller fills it in, with zero for what it does not set. */
struct udpring_packets_out {
    const uint8_t *data;
    uint64_t bytes;             /* of data */
    const uint32_t *offsets;    /* where each begins in data. NULL: one behind the other */
    const uint32_t *lengths;    /* of each. NULL: `length` bytes each, the last may be shorter */
    uint32_t length;
    uint32_t count;
    uint32_t taken;             /* packets put into the queues. The next call continues after them */
    uint64_t next;              /* where the first of the others begins */
};
/* Received packets, in one piece of memory: number i has lengths[i] bytes at data + offsets[i], and came from peers[i]. */
struct udpring_packets {
    uint8_t *data;
    uint32_t *offsets, *lengths, *peers;
    uint32_t count, bytes;
};
/* Copies packets, in order, into the queues, until one finds no room. 0. -EINVAL, none is taken: packet number out->taken is
 * longer than 65535 bytes, or is not within the data. wait: unless all were taken, room raises the eventfd. */
int32_t udpring_plane_packets_send(struct udpring_plane *plane, struct udpring_packets_out *out, int32_t wait);
int32_t udpring_plane_packets_room_fd(const struct udpring_plane *plane);
/* Up to max packets that have arrived, *batch NULL: none. wait: the next one then raises the eventfd. 0, -ENOMEM: they stay. */
int32_t udpring_plane_packets_receive(struct udpring_plane *plane, uint32_t max, int32_t wait, struct udpring_packets **batch);
int32_t udpring_plane_packets_fd(const struct udpring_plane *plane);
/* Any thread. data: of the batch, as a destructor of cffi is given it. */
void udpring_packets_free(struct udpring_packets *batch, uint8_t *data);
/* A command. Longer packets are dropped from now on. */
int32_t udpring_plane_packets_mtu(struct udpring_plane *plane, uint32_t mtu);

/* Commands: run by the worker between two passes. Each returns 0 or -errno. */

/* ---- what follows from handshakes and timers: many commands in one crossing ---- */
enum udpring_command_kind {
    /* peer, message, length, tos, address, local, interface_index, awaits_cookie, cookie_key. Handshake bytes, to the address from
     * that local address (responses). Without one to the peer's endpoint from its source. They count as an authenticated send of the
     * peer, unless it is UDPRING_PEER_NONE. cookie_key: of an initiation or a response, HASH("cookie--" || the peer's public key). One
     * authentic cookie reply to this message is let in, and no other. */
    UDPRING_COMMAND_SEND = 1,
    /* peer, cipher, keys, local_index, remote_index, initiator, birth_ns. cipher: UDPRING_CIPHER_* (-EINVAL: no such cipher,
     * -ENOTSUP: no library here has it). keys: sending then receiving key. Initiator: becomes current, staged packets leave (1: some
     * did). Responder: becomes next, current once data arrives on it. birth_ns: when the handshake completed. */
    UDPRING_COMMAND_KEYPAIR,
    /* peer, length, address (its source), local, interface_index. A handshake message of this length was authentic: roam there,
     * stamp the receive, count its bytes. */
    UDPRING_COMMAND_AUTHENTICATED,
    UDPRING_COMMAND_ENDPOINT,       /* peer, address */
    /* peer. Sends its staged packets, or an empty packet if there are none. 1: staged packets left on the KEYPAIR before it, so none
     * was sent. -ENOKEY: no session (asks for one). */
    UDPRING_COMMAND_KEEPALIVE,
    UDPRING_COMMAND_KEYS_ERASE,     /* peer. Zeroises all its keypairs */
    UDPRING_COMMAND_KEYS_EXPIRE,    /* peer. No more sending on them. Still receiving */
    UDPRING_COMMAND_SOURCE_CLEAR,   /* peer */
    UDPRING_COMMAND_STAGED_DROP,    /* peer */
    UDPRING_COMMAND_INDEX_RELEASE   /* local_index, which no keypair has (-EBUSY) */
};
#define UDPRING_COMMANDS_MAX 64     /* in one crossing: no worker stands still for long */

struct udpring_command {
    uint32_t kind;                  /* UDPRING_COMMAND_* */
    uint32_t peer;
    int32_t result;                 /* out */
    int32_t cipher;
    uint32_t length, interface_index;
    uint32_t local_index, remote_index;
    uint64_t birth_ns;
    struct udpring_address address, local;   /* family 0: none */
    uint8_t initiator, awaits_cookie, tos;
    uint8_t cookie_key[32];
    uint8_t keys[64];               /* zeroised by the call */
    uint8_t message[UDPRING_MESSAGE_MAX];
};
/* Runs them in order, also those after one that failed, and writes a result into each. -EINVAL: too many. */
int32_t udpring_plane_commands(struct udpring_plane *plane, struct udpring_command *commands, uint32_t count);

/* Opens new sockets in the worker's namespace on *port (0: the kernel chooses. *port then holds it), all with fwmark. Sessions
 * stay, source addresses are forgotten. On failure all workers keep the old sockets. */
int32_t udpring_plane_bind(struct udpring_plane *plane, uint16_t *port, uint32_t fwmark, struct udpring_reason *why);
int32_t udpring_plane_mark(struct udpring_plane *plane, uint32_t fwmark);
/* Two hashes of the node's public key, 32 bytes each: HASH("mac1----" || key) checks arriving handshakes, HASH("cookie--" || key)
 * seals cookie replies. NULL, NULL: all handshakes are refused. Under load the core answers messages without a valid mac2. */
int32_t udpring_plane_identity(struct udpring_plane *plane, const uint8_t *mac1_key, const uint8_t *cookie_key);
int32_t udpring_plane_peer_add(struct udpring_plane *plane, uint32_t *peer);
int32_t udpring_plane_peer_remove(struct udpring_plane *plane, uint32_t peer);
/* Whether the peer may get trains. At first by the flags. With UDPRING_PLANE_NO_UDP_OFFLOAD it gets none all the same. */
int32_t udpring_plane_peer_trains(struct udpring_plane *plane, uint32_t peer, int32_t on);
/* Sends two probes, one as a train and one singly. A udpring node answers each: PROBE_ANSWERED. -ENOKEY: no session.
 * -EPERM: it may get no trains. */
int32_t udpring_plane_peer_probe(struct udpring_plane *plane, uint32_t peer);
/* lost: the route loses trains, so that the peer gets none until it is called again. */
int32_t udpring_plane_peer_trains_lost(struct udpring_plane *plane, uint32_t peer, int32_t lost);
int32_t udpring_plane_endpoint(struct udpring_plane *plane, uint32_t peer, const struct udpring_address *endpoint);
/* Applies them in order. 0, -EINVAL (family, cidr), -ENOENT (no such peer), -EEXIST, -ENOMEM (or 2^22 prefixes). *done = how
 * many were applied. */
int32_t udpring_plane_prefixes(struct udpring_plane *plane, const struct udpring_prefix *prefixes, uint32_t count, uint32_t *done);
int32_t udpring_plane_prefixes_clear(struct udpring_plane *plane, uint32_t peer);
uint32_t udpring_plane_prefixes_list(struct udpring_plane *plane, uint32_t peer, struct udpring_prefix *out, uint32_t max);
/* Receiver indices that no keypair or handshake has, random, for this peer. Each is released by INDEX_RELEASE, or with the keypair it
 * became. UDPRING_PEER_NONE: in reserve, until an initiation that names it is sent to a peer or it becomes a keypair. On failure there
 * are none. */
int32_t udpring_plane_indices(struct udpring_plane *plane, uint32_t peer, uint32_t *indices, uint32_t count);
/* The answer to NESTED. returns: our packets to the peer come back to the interface with this destination. NULL: they do not.
 * 1: it is the peer's own, so that they loop, and are dropped. 0: they do not loop. */
int32_t udpring_plane_nested(struct udpring_plane *plane, uint32_t peer, const struct udpring_address *returns);
/* on: post ROAMED, at most one for each peer in UDPRING_ROAMED_MS. Off at first. */
int32_t udpring_plane_watch_roaming(struct udpring_plane *plane, int32_t on);
/* Boot time until which handshakes need a valid mac2. In the past: not under load. No command: it reads one value. */
uint64_t udpring_plane_load_until(const struct udpring_plane *plane);
/* From the next wait on, the workers have this nice value (-20 to -1), but their usual one while many datagrams come, and under bulk
 * transfers without a sparse flow. 0: always their usual one. If the host refuses, nothing changes (stats.nice). group: the session changes between these values instead. It is
 * a descriptor of the session's /proc/PID/autogroup, or a socket to a process that writes to that file, and is duplicated. -1: none.
 * Returns 0, -EINVAL or the -errno of fcntl. */
int32_t udpring_plane_weight(struct udpring_plane *plane, int32_t nice, int32_t group, int32_t group_usual);
/* The answer "no" to PEER_WANTED: packets to the address are dropped, and more of them for so long, two minutes at most.
 * -ENOTSUP: without UDPRING_PLANE_ASKS. */
int32_t udpring_plane_refuse(struct udpring_plane *plane, const struct udpring_address *address, uint64_t ns);
int32_t udpring_plane_forget_refusals(struct udpring_plane *plane);   /* all of them may be asked for again */
/* For a second the plane takes itself to be under load: handshakes need a valid mac2. */
int32_t udpring_plane_under_load(struct udpring_plane *plane);
/* post_activity: the control loop suspends this peer's timers. The next stamp that they depend on posts one ACTIVITY event. */
int32_t udpring_plane_peer_state(struct udpring_plane *plane, uint32_t peer, int32_t post_activity, struct udpring_peer_state *out);
/* The same for several peers. Returns how many of them there are. Their states are in out, in order. */
uint32_t udpring_plane_states_of(struct udpring_plane *plane, const uint32_t *peers, uint32_t count, int32_t post_activity,
                                 struct udpring_peer_state *out);
/* The states of up to max peers from slot `first` on. Returns how many. *next = where to go on, 0 at the end. */
uint32_t udpring_plane_peer_states(struct udpring_plane *plane, uint32_t first, struct udpring_peer_state *out, uint32_t max, uint32_t *next);
int32_t udpring_plane_stats(struct udpring_plane *plane, struct udpring_plane_stats *out);

/* ---- many peers at once, as the UAPI has them (www.wireguard.com/xplatform) ---- */
#define UDPRING_BLOCKS_MAX 256           /* in one crossing: no worker stands still for long */
#define UDPRING_BLOCK_PREFIXES_MAX 1024  /* of those blocks together */
/* block.flags */
#define UDPRING_BLOCK_PRESHARED_KEY 1
#define UDPRING_BLOCK_KEEPALIVE 2
#define UDPRING_BLOCK_ENDPOINT 4
#define UDPRING_BLOCK_REPLACE 8          /* its allowed IPs replace those of the peer */
/* A peer of a set request: its lines from public_key on. */
struct udpring_peer_block {
    uint8_t public_key[32], preshared_key[32];
    struct udpring_address endpoint;
    uint32_t flags;                      /* UDPRING_BLOCK_* */
    uint32_t keepalive;
    uint32_t first_prefix, prefix_count; /* within the prefixes that were read with it */
};
/* What was read. The caller provides the memory. */
struct udpring_peer_blocks {
    struct udpring_peer_block *blocks;   /* [UDPRING_BLOCKS_MAX] */
    struct udpring_prefix *prefixes;     /* [UDPRING_BLOCK_PREFIXES_MAX] */
    uint32_t count, prefix_count;
    uint32_t bytes, lines;               /* that these blocks have */
    uint32_t more;                       /* 1: the text ends in the middle of a further block, which is plain so far */
};
/* Reads blocks from the start of the text. Stops at the first one that is not plain: it has a wrong or rare line, or an order of
 * lines that matters. It is then left to the parser of single lines. A block ends where the next line is public_key or empty. */
void udpring_peer_blocks_read(const uint8_t *text, uint32_t length, struct udpring_peer_blocks *out);
/* outcomes[i] */
#define UDPRING_BLOCK_CHANGED 1          /* the endpoint or an allowed IP */
#define UDPRING_BLOCK_STAGED 2           /* packets wait for a session with this peer */
/* A command. Applies endpoints and allowed IPs in order, block i to peers[i], and leaves those alone that are so already. Returns
 * 0 or -errno (-ENOENT: no such peer. -ENOMEM). *done: so many blocks were applied. Of the one behind them maybe a part. */
int32_t udpring_plane_blocks(struct udpring_plane *plane, const struct udpring_peer_blocks *blocks, const uint32_t *peers,
                             uint32_t count, uint8_t *outcomes, uint32_t *done);
/* Commands. As many peers as there is room for. Returns how many were added, or the -errno of the first. */
int32_t udpring_plane_peers_add(struct udpring_plane *plane, uint32_t *peers, uint32_t count);
/* Unknown ones are passed over. */
int32_t udpring_plane_peers_remove(struct udpring_plane *plane, const uint32_t *peers, uint32_t count);
/* What a get answer says of a peer beside what the plane knows. */
struct udpring_peer_settings {
    uint8_t public_key[32], preshared_key[32];
    uint64_t handshake_s;                /* when the last handshake was completed */
    uint32_t handshake_ns;
    uint32_t keepalive;
    uint32_t peer;
    char extra[44];                      /* lines of our own, each with its newline. Zero-terminated */
};
/* A command. Writes the lines of these peers, in order, until there is no room for the next. Returns the bytes written, or -ENOMEM.
 * *taken: so many peers, those that are gone included. Where none was taken, *needed bytes are enough for the next. */
int32_t udpring_plane_peers_text(struct udpring_plane *plane, const struct udpring_peer_settings *peers, uint32_t count,
                                 uint8_t *text, uint32_t room, uint32_t *taken, uint32_t *needed);
#endif
