/* Every size and bound of the tunnel in one place. Those of the protocol are in messages.h. */
#ifndef UDPRING_TUNNEL_LIMITS_H
#define UDPRING_TUNNEL_LIMITS_H
#include "abi.h"
#include "messages.h"

enum {
    OUT_SLOTS = 256,            /* packets on their way out. Each is a send slot too */
    OUT_SLOTS_RESERVED = 32,    /* of these, never given to TUN reads: handshakes and keepalives get through under load */
    /* Kept free before a read where trains are off. Each segment of a super-packet then takes a slot. Segments without a slot
     * are staged (STAGED_MAX). Segments of 256 bytes and more always find a place. */
    OUT_SLOTS_SINGLY = OUT_SLOTS_RESERVED + 128,
    OUT_DATA_MAX = 65535,       /* any MTU */
    /* One page-aligned stride per slot: header, packet, padding and tag. Untouched pages cost nothing. */
    OUT_SLOT_BYTES = 65536 + 4096,
    RX_BATCH = 32,              /* packets handled between two looks at the TUN device and the commands, */
    INBOX_BYTES = 256 << 10,    /* and this much, so that the other direction gets its turn within a millisecond */
    TUN_BATCH = 64,             /* reads of the TUN device in one pass */
    PORT_BATCH = 512,           /* or packets of the program, each of which is no super-packet */
    TUN_BATCH_BYTES = 256 << 10,/* and this much. A small packet among super-packets ends the pass, so that it leaves at once */
    SMALL_BYTES = 1500,
    TUN_AHEAD = 256 << 10,      /* read ahead of what is sealed, while no socket is full: more would leave the cache */
    TRAIN_SEGMENTS = 64,        /* UDP_MAX_SEGMENTS of the kernels before 6.9 */
    TRAIN_BYTES = 65507,        /* an IPv4 UDP payload: longer sends are refused (EMSGSIZE) */
    TRAINS_PER_READ = 16,       /* a super-packet of small segments becomes this many trains at most */
    STAGED_MAX = 128,           /* packets a peer waits with for a key, of each worker (kernel: MAX_STAGED_PACKETS) */
    STAGED_BYTES_MAX = 32 << 20,/* of all peers together, in equal shares for the workers */
    STAGED_OVERHEAD = 64,       /* added to the bytes of each */
    WANTED_ENTRIES = 1024,      /* destinations without a peer that are known, of each worker: asked for, or refused */
    WANTED_WAYS = 4,
    WANTED_MAX = 256,           /* of these, asked for at once */
    WANTED_BYTES_MAX = 4 << 20, /* of packets that wait for such an answer, divided among the workers. STAGED_MAX for a destination */
    WANTED_QUESTION_NS = 1000000,   /* one question in this time: 1000 a second, of each worker */
    WANTED_BURST = 256,         /* and so many at once */
    MAILBOX_DEFAULT = 4096,
    HANDSHAKE_THREADS_MAX = 8,  /* as many initiations may wait for them as the mailbox holds */
    COMPUTATIONS_MAX = 1024,    /* of Python's handshakes, that the threads have at once. More are computed by the caller */
    HANDSHAKE_NS = 30000,       /* while data flows, one handshake message is looked at in this time: 33 000 a second */
    HANDSHAKE_BURST = 512,      /* and so many at once: an eighth of the mailbox */
    HANDSHAKE_READ_NS = 10000,  /* while data flows, one datagram is read from the handshake sockets in this time */
    STRAY_NS = 250000,          /* the same for those that came in a train of data: 4000 a second, of each worker */
    STRAY_BURST = 128,
    HANDSHAKE_BATCH = 64,       /* and in one pass */
    HANDSHAKE_BUFFER_BYTES = 256 << 10,   /* of their sockets (the kernel doubles it): some 500 messages, 15 ms of that rate */
    COOKIE_REPLY_NS = 62500,    /* one of them is answered with a cookie in this time: 16 000 a second */
    COOKIE_REPLY_BURST = 512,
    COOKIE_SENDERS = 1024,      /* groups of senders, of which each gets a second reply in a second only if there are plenty */
    COOKIE_NONCE_SUPPLY = 10,   /* asked for at once: up to 256 bytes come whole (getrandom(2)) */
    HANDSHAKE_SLOT_BYTES = 64 << 10,      /* any train: data may be behind a handshake */
    PEERS_MAX = UDPRING_PEERS_MAX,        /* at most 1 << 20: the slot bits of a peer id */
    WORKERS_MAX = UDPRING_WORKERS_MAX,
    MAILBOX_ENDS = 3 + WORKERS_MAX,       /* events that come once: of the device, two kinds of coalescing, each worker */
    CHANGES_MAX = 256,          /* changes of the tables that packets have asked for. More are asked for again */
    MODERATION_RATE = 30000,    /* datagrams a second from which a worker may let them gather. It stops below half of that */
    DATAGRAMS_MANY = 8000,      /* a second from which a worker has its usual weight and time slice, both directions together */
    BULK_BYTES = 20000000,      /* a second from which it has its usual weight if no flow is sparse (sparse.h) */
    SOCKET_BYTES = 212992,      /* what a program's UDP socket holds by default (net.core.rmem_default) */
    SOCKET_HEAD = 384,          /* bytes before and behind a packet in the kernel's memory, which is a power of two */
    SOCKET_BUFFER = 256,        /* and of what describes it */
    SPARSE_RUN = 16,            /* packets with gaps below SPARSE_GAP_MIN_NS that make a flow busy */
    MODERATION_A_PASS = 32,     /* and it begins only where a pass finds fewer */
    MODERATION_RUN = 4,         /* windows in a row before it begins, or ends because the rate fell */
    MODERATION_GATHER = 64,     /* how many it would have wait for it, a train's worth */
    PACING_DATAGRAMS = 24,      /* delivered between two yields: a quarter of what a default socket buffer holds of full size */
    SHORTAGE_DOUBLINGS = 6,     /* of the pause between passes that fail for lack of memory: 64 ms at most */
    ROUTES_ASKED_MAX = 64,      /* peers that roamed and wait for a look-up. Beyond, all are looked up */
    ROUTES_BATCH = 64,          /* peers copied while the workers are stopped once, for route look-ups */
    ROUTES_SLOTS_A_PASS = 4096, /* and places in the table of peers that are searched for them */
    ROUTES_NOTICES_A_ROUND = 256,
    ROUTES_KNOWN = 16,          /* interfaces that are known to be tunnels, or not */
    ROUTES_STALE_MAX = 8,       /* answers to earlier look-ups that are passed over */
    ROUTES_PAUSE = 9,           /* the watch thread pauses for this many times its CPU time */
    VRF_SLAVES_MAX = 4096,      /* interfaces in VRFs that are known. Answers of others go by the main table */
    LOOP_HOPS_MAX = UDPRING_LOOP_HOPS_MAX,
    PACING_REST = 8,            /* a yield that took too long is followed by this many times as long without */
    SPREAD_JOBS = 32,           /* super-packets and trains of one pass that other workers may seal or open */
    SPREAD_PACKETS = 64,        /* packets of one of them at most, */
    SPREAD_PACKETS_MIN = 8,     /* and at least: to seal fewer takes less time than to hand them over */
    SPREAD_BATCH_BYTES = 512 << 10,   /* in place of TUN_BATCH_BYTES and INBOX_BYTES while others help */
    SPREAD_HELPERS = 3,         /* a worker with so many helpers calls no more */
    SPREAD_WINDOWS = 4,         /* saturated windows before help is tried, and windows of a trial. After a switch one window is not measured */
    SPREAD_WINDOWS_MAX = 256,   /* windows with help at most, before SPREAD_WINDOWS without it, to compare */
    SPREAD_SPINS = 2000,        /* checks of a job that a helper has begun, before the owner yields the CPU */
};

#define NS_PER_S 1000000000ull
/* A secret that cookies are made from is replaced after this long (whitepaper 5.4.7). */
#define COOKIE_SECRET_NS (120 * NS_PER_S)
/* A peer asks the control loop for a handshake no more often than this. */
#define WANTED_INTERVAL_NS (NS_PER_S / 2)
/* How long packets wait for a peer, and how long an answer "no" is kept at most. */
#define WANTED_NS (60 * NS_PER_S)
#define WANTED_REFUSED_NS (120 * NS_PER_S)
/* Under load for this long after the mailbox was an eighth full (kernel: one second). */
#define UNDER_LOAD_NS NS_PER_S
/* Whether trains to a peer pass is asked no more often than this, */
#define TRAINS_ASKED_NS (NS_PER_S / 2)
/* again where trains were not answered for so long (the least RTO of TCP is 200 ms), and else after so long, */
#define TRAINS_UNANSWERED_NS (NS_PER_S / 20 * 3)
#define TRAINS_AGAIN_NS (10 * NS_PER_S)
/* of one peer in this time by each worker, the first train of a session apart. */
#define TRAINS_DOUBT_NS (NS_PER_S / 100)
#define ROAMED_INTERVAL_NS (UDPRING_ROAMED_MS * (NS_PER_S / 1000))
/* Data flows if any worker has moved some within this time, and how often a worker checks that. */
#define DATA_FLOWS_NS (NS_PER_S / 50)
#define DATA_STAMP_NS (NS_PER_S / 1000)
/* How often the interface's MTU is looked up while packets flow (it may change where no netlink message reaches us). */
#define MTU_CHECK_NS NS_PER_S
/* The longest pause for datagrams to gather: well below the time that fills the TUN device's queue of 500. */
#define MODERATION_WAIT_NS 150000ull
/* Rates are taken over this long. */
#define MODERATION_WINDOW_NS 4000000ull
/* No more waiting for this long after it has spoilt a rate. */
#define MODERATION_PENALTY_NS NS_PER_S
/* Of a worker, while no datagrams gather. The kernel's own is 0.7 to 2.8 ms. A shorter one costs throughput. */
#define TIME_SLICE_NS 500000ull
/* The kernel's, where it does not tell (before Linux 6.12). */
#define TIME_SLICE_KERNELS_NS 3000000ull
/* The gaps between the packets of a sparse flow, */
#define SPARSE_GAP_MIN_NS (NS_PER_S / 200)
#define SPARSE_GAP_MAX_NS NS_PER_S
/* for how long a busy flow is none, */
#define SPARSE_BUSY_NS (NS_PER_S / 10)
/* and how long a sparse one counts, at least. Two gaps if they are longer. */
#define SPARSE_HOLD_NS (NS_PER_S / 5)
/* The least time between two changes of a session's nice value (kernel: HZ / 10). */
#define GROUP_WEIGHT_NS (NS_PER_S / 10)
/* A reader catches up within this time. A thread that keeps the CPU for longer is not one. */
#define PACING_LONG_NS 300000ull
/* The length of a window in which spread_trial.c measures a worker. */
#define SPREAD_WINDOW_NS 4000000ull
/* The pause after a trial of help that failed. It doubles each time, up to the maximum. */
#define SPREAD_PENALTY_NS (2 * NS_PER_S)
#define SPREAD_PENALTY_MAX_NS (64 * NS_PER_S)
/* A helper turns to its own work after this, and stops helping after this long without a job. */
#define SPREAD_STINT_NS 200000ull
#define SPREAD_IDLE_NS 50000ull
/* The least time between two calls for a helper. */
#define SPREAD_CALL_NS 1000000ull
/* A pass that fails for lack of memory or room is tried again after this, then after longer, for so long in all. */
#define SHORTAGE_PAUSE_NS 1000000ull
#define SHORTAGE_NS (10 * NS_PER_S)
/* How often Python is asked whether packets loop through another tunnel: while they loop or no answer has come, and while they do
 * not loop. */
#define NESTING_ASK_NS NS_PER_S
#define NESTING_CLEAR_NS (10 * NS_PER_S)
/* A message to a peer came out of our own TUN device: the route leads there for so long, whatever the last look-up says. While
 * more such messages come, the watch thread is asked to look this often. */
#define CAME_BACK_NS NS_PER_S
#define CAME_BACK_LOOK_NS (NS_PER_S / 2)
/* Bounds of the watch thread's pause. */
#define ROUTES_PAUSE_MIN_NS (NS_PER_S / 500)
#define ROUTES_PAUSE_MAX_NS (NS_PER_S / 2)
/* Close and re-bind wait this long for sends in flight. */
#define DRAIN_NS (NS_PER_S / 2)

_Static_assert(OUT_SLOT_BYTES >= TRAIN_BYTES, "a slot holds any train");
_Static_assert(OUT_SLOT_BYTES >= WG_DATA_HEADER + OUT_DATA_MAX + WG_PADDING + WG_TAG, "a slot holds any sealed packet");
_Static_assert(HANDSHAKE_SLOT_BYTES >= TRAIN_BYTES, "a train is read whole");
_Static_assert(WANTED_BURST < MAILBOX_DEFAULT / 8, "questions alone are no load");
_Static_assert(OUT_SLOTS_SINGLY < OUT_SLOTS, "reads of the TUN device need slots");
#endif
