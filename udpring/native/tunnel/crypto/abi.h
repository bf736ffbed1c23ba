/* The interface of handshakes to Python: each message, and the threads that compute messages. */
#ifndef UDPRING_TUNNEL_CRYPTO_ABI_H
#define UDPRING_TUNNEL_CRYPTO_ABI_H
#include "../abi.h"

/* ---- handshakes: Noise_IKpsk2 by OpenSSL (crypto/noise.h). One call computes one message, in any thread ---- */
#define UDPRING_NOISE_INITIATION 108   /* ephemeral key, sealed static key, sealed timestamp */
#define UDPRING_NOISE_RESPONSE 48      /* ephemeral key, tag of nothing */
#define UDPRING_NOISE_TIMESTAMP 12

struct udpring_static_key;
/* Of 32 bytes, clamped by the caller. Writes the public key. NULL: no memory, or OpenSSL has no X25519. */
struct udpring_static_key *udpring_static_key_new(const uint8_t *private_key, uint8_t *public_key);
/* Zeroises the key once nothing uses it. NULL is fine. */
void udpring_static_key_free(struct udpring_static_key *key);
/* The shared secret with a public key. 0. -EINVAL: the public key has small order. -ENOMEM. */
int32_t udpring_static_key_shared(const struct udpring_static_key *key, const uint8_t *public_key, uint8_t *shared);

enum udpring_handshake_step {
    UDPRING_HANDSHAKE_NEW,
    UDPRING_HANDSHAKE_INITIATED,       /* message has the initiation */
    UDPRING_HANDSHAKE_OPENED,          /* remote has the static key that the initiator claims */
    UDPRING_HANDSHAKE_PROVED,          /* the initiator has it. timestamp is authentic */
    UDPRING_HANDSHAKE_RESPONDED        /* message has the response. keys has the sending and the receiving key */
};

/* One handshake of one side. Owner: who made it. Thread: one at a time, but several may finish it at once. Freed, and zeroised, by
 * udpring_handshake_free(). */
struct udpring_handshake {
    int32_t cipher;                    /* UDPRING_CIPHER_* */
    uint32_t step;                     /* UDPRING_HANDSHAKE_* */
    void *ephemeral;                   /* of an initiator: its private key, a struct x25519_key, until it is freed */
    uint8_t chaining_key[32], hash[32];
    uint8_t remote[32];                /* of a responder: the initiator's static key */
    uint8_t keys[64];
    uint8_t timestamp[UDPRING_NOISE_TIMESTAMP];
    uint8_t message[UDPRING_NOISE_INITIATION];
};
struct udpring_handshake *udpring_handshake_new(int32_t cipher);   /* NULL: no memory */
void udpring_handshake_free(struct udpring_handshake *handshake);  /* NULL is fine */
/* The cheap steps of a responder. udpring_compute() has the others. 0, or nothing has changed: -EBADMSG: the tag is wrong. -EINVAL: a
 * public key has small order, or there is no such cipher. -EPROTO: not the next step. -ENOTSUP: OpenSSL lacks an algorithm. -ENOMEM,
 * -EIO. static_static: the shared secret of both static keys. */
int32_t udpring_handshake_open(struct udpring_handshake *handshake, const struct udpring_static_key *key, const uint8_t *initiation);
int32_t udpring_handshake_prove(struct udpring_handshake *handshake, const uint8_t *static_static);

/* The cookie, of 16 bytes, in a reply of 64 bytes to the message with this mac1. key: HASH("cookie--" || the sender's public key).
 * 0. -EBADMSG: not authentic. -ENOTSUP, -ENOMEM. Any thread. */
int32_t udpring_cookie_open(const uint8_t *key, const uint8_t *reply, const uint8_t *mac1, uint8_t *cookie);

/* ---- handshake threads: they compute messages, so that the event loop does not ---- */
enum udpring_computation_kind {
    UDPRING_COMPUTE_INITIATE = 1,    /* handshake, key, remote, static_static, ephemeral, timestamp */
    UDPRING_COMPUTE_FINISH,          /* handshake, key, message (the response), psk. out: keys */
    UDPRING_COMPUTE_RESPOND          /* handshake, ephemeral, psk */
};

/* One of the expensive steps. A response that is not authentic leaves the handshake as it is.
 * Owner: the caller, who keeps it and what it names until the threads
 * are done with it, and then frees it. Thread: the caller's, then a handshake thread's. The secrets that go in are zeroised once it has
 * run. */
struct udpring_computation {
    struct udpring_computation *next;           /* the threads' */
    uint64_t number;                            /* the caller's */
    uint32_t kind;                              /* UDPRING_COMPUTE_* */
    int32_t result;                             /* out: of the call */
    struct udpring_handshake *handshake;
    const struct udpring_static_key *key;
    uint8_t remote[32], static_static[32], ephemeral[32], psk[32], keys[64];
    uint8_t timestamp[UDPRING_NOISE_TIMESTAMP], message[UDPRING_NOISE_RESPONSE];
};
struct udpring_computation *udpring_computation_new(void);            /* zeroes. NULL: no memory */
void udpring_computation_free(struct udpring_computation *computation);   /* and zeroise. NULL is fine */
void udpring_compute(struct udpring_computation *computation);   /* here and now */
/* Starts the handshake threads, once: 1 to 8. openers: how many of them may open initiations at a time, at least 1. 0, -EINVAL, or
 * -ENOMEM, -ENOTSUP or -EAGAIN with the reason. The threads end with the plane. */
int32_t udpring_plane_handshake_threads(struct udpring_plane *plane, uint32_t wanted, uint32_t openers, struct udpring_reason *why);
/* The key that admitted initiations are opened with, before they become events. Held by the plane too. Those that do not open are
 * dropped. NULL: they become events as they are, as do all under load. number: the caller's, for events. -ENOTSUP: no threads. */
int32_t udpring_plane_handshake_key(struct udpring_plane *plane, struct udpring_static_key *key, uint32_t number);
/* 0: it is computed, and then the eventfd of the events is raised. -EAGAIN: too many are (or there are no threads). */
int32_t udpring_plane_compute(struct udpring_plane *plane, struct udpring_computation *computation);
/* The numbers of up to max that are done, in the order in which they were. The caller owns them again. Never blocks. */
uint32_t udpring_plane_computed(struct udpring_plane *plane, uint64_t *numbers, uint32_t max);
#endif
