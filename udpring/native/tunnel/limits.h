/* Every size and bound of the tunnel in one place; what the protocol fixes is in messages.h. */
#ifndef UDPRING_TUNNEL_LIMITS_H
#define UDPRING_TUNNEL_LIMITS_H
#include "messages.h"

enum {
    OUT_SLOTS = 256,            /* packets on their way out; each is a send slot too */
    OUT_SLOTS_RESERVED = 32,    /* of these, never given to TUN reads: handshakes and keepalives get through under load */
    OUT_DATA_MAX = 65535,       /* any MTU */
    /* One page-aligned stride per slot: header, packet, padding and tag; untouched pages cost nothing. */
    OUT_SLOT_BYTES = 65536 + 4096,
    RX_BATCH = 32,              /* packets handled between two looks at the TUN device and the commands */
    TUN_BATCH = 64,             /* reads of the TUN device in one pass */
    TUN_BATCH_BYTES = 256 << 10,/* and this much, so that the other direction gets its turn within a millisecond */
    TRAIN_SEGMENTS = 64,        /* UDP_MAX_SEGMENTS of the kernels before 6.9 */
    TRAIN_BYTES = 65507,        /* an IPv4 UDP payload: longer sends are refused (EMSGSIZE) */
    TRAINS_PER_READ = 16,       /* a super-packet of small segments becomes this many trains at most */
    STAGED_MAX = 128,           /* packets a peer waits with for a key (kernel: MAX_STAGED_PACKETS) */
    STAGED_BYTES_MAX = 32 << 20,/* of all peers together */
    MAILBOX_DEFAULT = 4096,
    PEERS_MAX = 1 << 20,        /* kernel: MAX_PEERS_PER_DEVICE; also the slot bits of a peer id */
    WORKERS_MAX = 16,
    CHANGES_MAX = 256,          /* changes of the tables that packets have asked for; more are asked for again */
    KICKS_MAX = 64,             /* peers whose staged packets are sent on in one pass */
};

#define NS_PER_S 1000000000ull
/* A peer asks the control loop for a handshake no more often than this. */
#define WANTED_INTERVAL_NS (NS_PER_S / 2)
/* Under load for this long after the mailbox was an eighth full (kernel: one second). */
#define UNDER_LOAD_NS NS_PER_S
/* How often the interface's MTU is looked up while packets flow (it may change where no netlink message reaches us). */
#define MTU_CHECK_NS NS_PER_S
/* Close and re-bind wait this long for sends in flight. */
#define DRAIN_NS (NS_PER_S / 2)

_Static_assert(OUT_SLOT_BYTES >= TRAIN_BYTES, "a slot holds any train");
_Static_assert(OUT_SLOT_BYTES >= WG_DATA_HEADER + OUT_DATA_MAX + WG_PADDING + WG_TAG, "a slot holds any sealed packet");
_Static_assert(OUT_SLOTS_RESERVED < OUT_SLOTS, "reads of the TUN device need slots");
#endif
