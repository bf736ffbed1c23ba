/* The harness's knowledge of the plane: peers, sessions, owners of addresses; and the two oracles. */
#ifndef UDPRING_FUZZ_PLANE_MODEL_H
#define UDPRING_FUZZ_PLANE_MODEL_H
#include "input.h"
#include "model_aead.h"
#include "model_delivery.h"
#include "model_kernel.h"
#include "model_threads.h"
#include "tunnel/worker/state.h"

enum { PEERS = 4, LIVES = 48, SESSIONS = 200, NETS = 4, FIRST_NET = 10, OUTER_NET = 192, NOBODY = 255, EXPECTED = 4096, WORKERS = 2 };

/* One life of a peer, from add to remove. Packets belong to it, not to its successor. */
struct life {
    uint32_t id;
    uint8_t slot;
    uint16_t family;            /* of the last known endpoint */
    bool reordered;             /* its packets may overtake each other from now on, for a reason in the core */
};

struct session {
    uint64_t send_secret, receive_secret, counter;
    uint32_t local, remote, type;
    uint8_t life;
};

extern struct model {
    struct udpring_plane *plane;
    struct life life[LIVES];
    uint32_t lives;
    uint8_t present[PEERS];     /* life by slot */
    uint8_t owner[NETS];        /* life by net, NOBODY: no peer */
    uint8_t outer[PEERS];       /* life that owns the addresses of a slot's endpoints, likewise */
    bool loops[PEERS];          /* packets to that slot return to the device, as of the last paths_check() */
    bool loops_known;
    bool own_read;              /* since then the device gave a message of the plane itself */
    bool asks;                  /* there is a directory of peers */
    struct session session[SESSIONS];
    uint32_t sessions;
    /* The kernel's errors for the next sends, while some are left. */
    int send_error;
    uint32_t send_errors;
    bool only_trains;
    int write_error;            /* the same for writes to the TUN device */
    uint32_t write_errors;
    bool only_supers;
    /* Counted by the oracles. */
    uint8_t cookie_reply[64];   /* the last that left */
    uint32_t cookie_replies;
    uint32_t moves;             /* of nets between peers */
    bool forgot;                /* more packets were read than plane_out.c keeps */
    uint64_t messages_in, handshake_events, packets_read, packets_left, others;
} model;

/* The owner of a packet's address, by destination or source in the IP header; or NOBODY. */
uint8_t model_owner(const uint8_t *packet, uint32_t length, bool destination);
/* BLAKE2s of 16 bytes, keyed. */
void model_mac(const uint8_t *key, size_t key_bytes, const uint8_t *bytes, size_t length, uint8_t out[16]);
extern const uint8_t model_mac1_key[32], model_cookie_key[32];   /* of the plane's identity; its peers have the same */
struct session *model_session(uint32_t index, bool local);
/* Call before the tables change: earlier packets follow the old ones, later ones the new ones. */
void model_read_all(void);
struct udpring_address model_address(uint8_t slot, uint8_t choice);   /* of an endpoint of the slot's peer */

/* plane_out.c: packets read from the device leave sealed, once, in order, to their peers. */
void out_reset(void);
void out_read(uint32_t queue, const struct kernel_packet *packet);
int32_t out_send(const struct kernel_send *send);
void out_check_quiet(void);     /* nothing is in flight: every packet that did not leave was counted */

/* plane_in.c: sealed packets are written to the device, once, in order, and nothing else is. */
void in_reset(void);
void in_received(int fd, const struct kernel_packet *packet, bool truncated);
int in_write(uint32_t queue, const struct vnet_header *vnet, const struct iovec *parts, int count);
void in_check_quiet(void);

/* plane_paths.c: a peer's packets leave as the model's routes say, once these were looked up. */
void paths_reset(void);
void paths_step(struct input *input, uint8_t slot);   /* changes something in the routes */
void paths_outer(uint8_t choice, uint8_t slot, bool remove);
void paths_authenticated(struct input *input, uint8_t slot);
void paths_check(void);         /* lets time pass and checks */
void paths_answered(void);      /* a question about another tunnel was answered */
void paths_changed(void);       /* knowledge about loops is no longer valid */

/* plane_nested.c: packets of a tunnel leave through another tunnel only after that path was followed. */
void nested_reset(void);
void nested_choose(uint8_t slot, uint8_t returns);   /* where the path of the peer's packets will be found to end */
void nested_learn(uint8_t slot, const struct path *path, bool certain);
void nested_forget(void);
bool nested_may_drop(void);
void nested_read(uint8_t life, const uint8_t *packet, uint32_t length);
void nested_leaves(uint8_t life, const uint8_t *packet, uint32_t length);
void nested_answer(uint8_t life, uint64_t asked_ns);
void nested_check_quiet(void);

/* plane_own.c: messages of the plane that come out of its device do not leave again. */
enum own { OWN_NOT, OWN_LOOPS, OWN_MAY_LOOP };   /* the second is to be dropped, the third may be */
void own_step(struct input *input, uint8_t slot);   /* one comes out */
enum own own_read(uint8_t life, const uint8_t *packet, uint32_t length);

/* plane_events.c: events to the control loop. */
void events_reset(void);
void events_peer_added(uint8_t life);
void events_look(uint8_t life, bool suspend);   /* reads the peer's state, as the control loop does */
void events_keys_change(uint8_t life);       /* earlier requests are void */
void events_address_proved(void);            /* a message with a valid mac2 is about to be sent */
void events_address_not_proved(void);        /* it was dropped for a known reason */
void events_address_may_be_proved(void);      /* no worker has looked at it yet */
void events_check_quiet(void);               /* takes all events */

/* plane_flood.c: sequences too long for an input. */
void flood_step(struct input *input, uint8_t slot);
void flood_age_cookies(uint64_t ns);   /* moves the birth of the plane's secret back */
#endif
