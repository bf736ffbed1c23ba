/* The internals of the core for tests: what the product does not call itself. Read as the core's abi.h files are. */
#ifndef UDPRING_TESTS_NATIVE_ABI_H
#define UDPRING_TESTS_NATIVE_ABI_H
#include "../../udpring/native/tunnel/abi.h"
#include "../../udpring/native/uring/abi.h"

/* ---- rings ---- */
/* Close as on kernels before 5.19; map the queues one by one, as on kernels before 5.4. */
#define UDPRING_DENY_CANCEL_ANY 0x80000000u
#define UDPRING_DENY_SINGLE_MMAP 0x40000000u
/* Queues an SQE of 64 bytes unchanged. The kernel may access the memory that it names, at the caller's risk. */
int32_t udpring_ring_raw(struct udpring_ring *ring, const uint8_t *sqe);

/* ---- rings of a confined thread ---- */
/* The result of one operation on such a ring; of one registration. */
int32_t udpring_confined_operation(uint8_t opcode, int32_t fd, uint32_t events);
int32_t udpring_confined_registration(uint32_t opcode);
/* Closes and opens such a ring so often. Returns how many descriptors were made, or -errno. */
int32_t udpring_confined_reopened(uint32_t times);
/* Opens a ring where that fails, and once more. Returns the result of the second open. */
int32_t udpring_confined_second_open(void);

/* ---- AEADs ---- */
/* 96-bit nonce = 32 zero bits | 64-bit counter, as the cipher has it (aead.h); no associated data.
 * seal writes length + 16 bytes to out; open writes length - 16, -EBADMSG if it does not authenticate. */
int32_t udpring_aead_seal(int32_t which, const uint8_t *key, uint64_t counter, const uint8_t *in, uint32_t length, uint8_t *out);
int32_t udpring_aead_open(int32_t which, const uint8_t *key, uint64_t counter, const uint8_t *in, uint32_t length, uint8_t *out);
/* For published vectors: the same with any 12-byte nonce and associated data (the tunnel uses none). */
int32_t udpring_aead_seal_aad(int32_t which, const uint8_t *key, const uint8_t *nonce, const uint8_t *aad, uint32_t aad_length,
                              const uint8_t *in, uint32_t length, uint8_t *out);
int32_t udpring_aead_open_aad(int32_t which, const uint8_t *key, const uint8_t *nonce, const uint8_t *aad, uint32_t aad_length,
                              const uint8_t *in, uint32_t length, uint8_t *out);
/* For bursts, by the functions of the tunnel and without a copy: `count` packets of `length` bytes (seal: of
 * plaintext; open: tag included) at in + i * stride, to out + i * stride; in == out is in place. Counters go up from
 * `counter`. results[i]: 0, -EBADMSG or -EIO. Returns 0, -EINVAL (no such implementation), -ENOTSUP (it does not load),
 * -ENOMEM, -EIO. */
int32_t udpring_aead_burst(int32_t which, int32_t seal, const uint8_t *key, uint64_t counter, const uint8_t *in, uint8_t *out,
                           uint32_t length, uint32_t stride, uint32_t count, int32_t *results);

/* ---- replay window (RFC 6479) ---- */
struct udpring_replay;
struct udpring_replay *udpring_replay_new(void);
void udpring_replay_free(struct udpring_replay *window);
int32_t udpring_replay_check(const struct udpring_replay *window, uint64_t counter);   /* 1 fresh, 0 not; moves nothing */
int32_t udpring_replay_update(struct udpring_replay *window, uint64_t counter);        /* 1 accepted, 0 refused */

/* ---- the time slice of the calling thread (time_slice.h), before and after: 1 short, 2 SCHED_BATCH, 0 neither, -1 refused ---- */
int32_t udpring_time_slice_set(int32_t before, int32_t is_short, int32_t patient);
uint32_t udpring_time_slice_socket_rate(void);
uint32_t udpring_time_slice_charge(uint32_t packet);

/* ---- the weight of two workers (weight.h), which takes group_fd. see: by the calling thread. It returns the nice value in force ---- */
struct udpring_weight;
struct udpring_weight *udpring_weight_new(int32_t nice, int32_t group_fd, int32_t group_usual);
void udpring_weight_free(struct udpring_weight *weight);
int32_t udpring_weight_see(struct udpring_weight *weight, uint32_t worker, int32_t many, uint64_t now_ns);
int64_t udpring_weight_patience(struct udpring_weight *weight, uint32_t worker);

/* ---- when a worker pauses or yields (moderation.h, pacing.h), or is helped (spread_trial.h) ---- */
struct udpring_trial;
struct udpring_trial *udpring_trial_new(void);
void udpring_trial_free(struct udpring_trial *trial);
int32_t udpring_trial_see(struct udpring_trial *trial, uint64_t now_ns, uint64_t cpu_ns, uint64_t bytes, uint64_t waits);
struct udpring_moderation;
struct udpring_moderation *udpring_moderation_new(void);
void udpring_moderation_free(struct udpring_moderation *moderation);
uint64_t udpring_moderation_wait(struct udpring_moderation *moderation, uint64_t now_ns, uint64_t items, uint64_t passes);
struct udpring_level;
struct udpring_level *udpring_level_new(void);
void udpring_level_free(struct udpring_level *level);
int32_t udpring_level_high(struct udpring_level *level, uint64_t now_ns, uint64_t count, uint32_t a_second);
struct udpring_sparse;
struct udpring_sparse *udpring_sparse_new(void);
void udpring_sparse_free(struct udpring_sparse *sparse);
uint64_t udpring_sparse_until(struct udpring_sparse *sparse, uint32_t flow, int32_t super_packet, uint64_t now_ns);
struct udpring_pacing;
struct udpring_pacing *udpring_pacing_new(void);
void udpring_pacing_free(struct udpring_pacing *pacing);
int32_t udpring_pacing_due(struct udpring_pacing *pacing, uint64_t now_ns, uint64_t datagrams);
void udpring_pacing_gave_way(struct udpring_pacing *pacing, uint64_t began_ns, uint64_t ended_ns);

/* ---- histograms (histogram.h) ---- */
void udpring_histogram_count(struct udpring_histogram *histogram, uint64_t size);

/* ---- queues of the interface's packets by flow (flow_queue.h) ---- */
struct flow_queue;
struct udpring_flow_state {
    uint64_t dropped, marked;
    uint32_t packets, bytes;    /* queued */
};
struct flow_queue *udpring_flow_queue_new(void);
void flow_queue_close(struct flow_queue *queue);
/* Copies the packet. The number of the queue that it joined, or -ENOBUFS. */
int32_t udpring_flow_put(struct flow_queue *queue, uint32_t way, const uint8_t *packet, uint32_t length, uint64_t now_ns);
/* Copies the next packet out: its length, or 0. */
int32_t udpring_flow_take(struct flow_queue *queue, uint32_t ways, uint64_t now_ns, uint8_t *packet);
struct udpring_flow_state udpring_flow_state(const struct flow_queue *queue);

/* ---- allowed-IPs trie ---- */
struct trie;
struct trie *trie_new(void);
void trie_free(struct trie *trie);
/* 0, -EINVAL (family, cidr, no peer), -EEXIST, -ENOMEM (or 2^22 prefixes); *done = how many were applied. */
int32_t trie_apply(struct trie *trie, const struct udpring_prefix *prefixes, uint32_t count, uint32_t *done);
void trie_remove_peer(struct trie *trie, uint32_t peer);
uint32_t trie_lookup(const struct trie *trie, uint16_t family, const uint8_t *ip);   /* longest match */
/* The prefixes of one peer, IPv4 first, each family in ascending order; returns how many there are, fills up to max. */
uint32_t trie_list(const struct trie *trie, uint32_t peer, struct udpring_prefix *out, uint32_t max);
uint32_t trie_count(const struct trie *trie);
uint32_t trie_nodes(const struct trie *trie);   /* nodes in use, branches included */

/* ---- receiver indices ---- */
struct udpring_index_table;
struct udpring_index_table *udpring_index_open(void);
void udpring_index_close(struct udpring_index_table *table);
int32_t udpring_index_new(struct udpring_index_table *table, uint32_t peer, uint32_t *index);
uint32_t udpring_index_find(const struct udpring_index_table *table, uint32_t index);   /* its peer, or UDPRING_PEER_NONE */
void udpring_index_remove(struct udpring_index_table *table, uint32_t index);
uint32_t udpring_index_count(const struct udpring_index_table *table);

/* ---- mac1, mac2, cookie: 1 right, 0 wrong ---- */
struct udpring_mac;
struct udpring_mac *udpring_mac_open(struct udpring_reason *why);
void udpring_mac_close(struct udpring_mac *mac);
int32_t udpring_mac_check1(struct udpring_mac *mac, const uint8_t *mac1_key, const uint8_t *message, uint32_t length);
int32_t udpring_mac_check2(struct udpring_mac *mac, const uint8_t *cookie, const uint8_t *message, uint32_t length);
int32_t udpring_mac_cookie(struct udpring_mac *mac, const uint8_t *secret, const uint8_t *ip, uint32_t ip_length, uint16_t port,
                           uint8_t *cookie);
/* The cookie reply of 64 bytes to the message with this sender index and mac1: XChaCha20-Poly1305 of the cookie under key. */
int32_t udpring_cookie_reply(const uint8_t *key, const uint8_t *nonce, const uint8_t *sender, const uint8_t *mac1,
                             const uint8_t *cookie, uint8_t *reply);

/* ---- offloads ---- */
/* Splits the super-packet behind a `struct virtio_net_hdr` of 10 bytes. Writes the packets to out, one after the other, and
 * returns how many. -EINVAL: header and packet do not agree; -ENOSPC: more than max packets or room bytes. */
int32_t udpring_segment(const uint8_t *vnet, const uint8_t *packet, uint32_t length, uint8_t *out, uint32_t room,
                        uint32_t *lengths, uint32_t max);
/* Writes count packets, one behind the other, to fd as a TUN device with these TUN_F_* would get them: one message each, its
 * virtio_net_hdr first. Each is as long as its IP header says. Returns the super-packets written, -EIO if fd refused one. */
int32_t udpring_coalesce(int32_t fd, uint32_t offloads, const uint8_t *packets, const uint32_t *lengths, uint32_t count);
/* RFC 1071 over length bytes, with the first ones (an even number) summed separately; in host byte order. */
uint32_t udpring_checksum(const uint8_t *bytes, uint32_t length, uint32_t first);

/* ---- messages of rtnetlink about links ---- */
struct udpring_link_note {
    uint32_t interface_index;
    uint32_t vrf;                       /* the VRF that it belongs to; 0: none */
};
/* Writes at most 256 bytes and returns how many. */
int32_t udpring_links_request(uint32_t sequence, uint8_t *request);
/* 1: the dump with this number ended; 0: it goes on; else the -errno that it holds. *count: the number of links in it. At most
 * max of them are written to out. */
int32_t udpring_links(const uint8_t *bytes, uint32_t length, uint32_t sequence, struct udpring_link_note *out, uint32_t max,
                      uint32_t *count);

/* ---- a live plane ---- */
/* The next nonce of the current keypair, so that the message limits can be reached. */
int32_t udpring_plane_test_counter(struct udpring_plane *plane, uint32_t peer, uint64_t counter);
/* The blocks that the current keypair has sealed, for those whose cipher has a limit on them. */
int32_t udpring_plane_test_blocks(struct udpring_plane *plane, uint32_t peer, uint64_t blocks);
/* The current keypairs' birth is moved back by this much, so that the time limits can be reached. */
/* Workers are helped at any time (1), never (0), or call helpers that never come (2). -ENOENT: there is one worker only. */
int32_t udpring_plane_test_spread(struct udpring_plane *plane, int32_t mode);
/* The cipher of the peer's current keypair fails at each so-manieth packet (0: never), and each takes so much longer. When a second
 * thread comes to use it, a byte is written to second_fd (-1: none). */
int32_t udpring_plane_test_hinder(struct udpring_plane *plane, uint32_t peer, uint32_t fail_every, uint32_t delay_us, int32_t second_fd);
int32_t udpring_plane_test_age(struct udpring_plane *plane, uint32_t peer, uint64_t age_ns);
/* The secret behind our cookies is older by this much. */
int32_t udpring_plane_test_cookie_age(struct udpring_plane *plane, uint64_t age_ns);
/* Holds worker 0 between two passes until a descriptor is readable, for 30 s at most (-ETIME). Writes a byte when it does so. */
int32_t udpring_plane_test_hold(struct udpring_plane *plane, int32_t holds_fd, int32_t until_fd);
#endif
