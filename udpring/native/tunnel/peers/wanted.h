/* Destinations without a peer, where a directory is asked for one: packets that wait for the answer, and answers "no", kept for
 * a while. worker/wanted.c decides what happens. A table of sets of four entries, so that a packet looks at four. */
#ifndef UDPRING_TUNNEL_PEERS_WANTED_H
#define UDPRING_TUNNEL_PEERS_WANTED_H
#include "../../base.h"

#include "../limits.h"
#include "../rate.h"

#include "staging.h"

struct wanted_key {
    uint64_t high, low;               /* the address. IPv4: in the upper half of `high` */
    bool v6;
};

enum wanted_state { WANTED_FREE, WANTED_ASKED, WANTED_REFUSED };

/* Owner: the table. Thread: as of the table. Its packets are freed by wanted_forget(). */
struct wanted {
    struct wanted_key key;
    uint8_t state;                    /* enum wanted_state */
    uint64_t until_ns;                /* ASKED: then the answer is too late. REFUSED: then it may be asked for again */
    struct staging staging;           /* of ASKED */
};

/* Owner: a worker. Thread: that worker, or worker 0 while all are stopped. Freed by wanted_close(). */
struct wanted_table {
    struct staging_all staged;        /* of all entries */
    struct rate rate;                 /* questions that may be asked now */
    uint32_t asked;                   /* entries in that state */
    uint64_t seed;                    /* of the hash */
    struct wanted entries[WANTED_ENTRIES];
};

int wanted_open(struct wanted_table **table, size_t most_bytes) UR_MUST_CHECK;
void wanted_close(struct wanted_table *table);      /* NULL is fine */
struct wanted *wanted_find(struct wanted_table *table, const struct wanted_key *key);   /* NULL: there is none */
/* An entry for this key that is free: one that nobody uses, else the oldest answer of its set. NULL: all wait. */
struct wanted *wanted_take(struct wanted_table *table, const struct wanted_key *key, uint64_t now);
/* Drops its packets and frees the entry. Returns how many there were. */
uint32_t wanted_forget(struct wanted_table *table, struct wanted *entry);
#endif
