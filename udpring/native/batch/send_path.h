/* Inside of sending for Python: what is known of destinations, as to whether their route takes trains.
 *
 * Order: a refused train is sent again as single datagrams, which must not come after what was sent behind it. So the
 * first train of a size to a destination is unproven: until its result is there, only what would be refused with it (a
 * train of no smaller segments) may follow it to the same destination. */
#ifndef UDPRING_BATCH_SEND_PATH_H
#define UDPRING_BATCH_SEND_PATH_H
#include "../base.h"

#include "../udp/abi.h"

#define SEND_PATHS 1024u          /* remembered at once; a power of two */
#define SEND_PATH_NONE UINT32_MAX

struct send_path {
    struct udpring_address to;
    uint32_t proven;              /* trains of segments up to this went */
    uint32_t refused;             /* trains of segments from this on were refused; 0: none */
    uint32_t outstanding;         /* unproven trains that have no result yet */
    uint32_t highest;             /* largest segment among them */
    uint64_t forget;              /* CLOCK_MONOTONIC ns: when `refused` ends, as routes change */
};

/* Owner: the udpring_send it is embedded in. Thread: its owner's. Freed by send_paths_free(). */
struct send_paths {
    struct send_path *path;       /* [SEND_PATHS] by hash; another destination takes the place of one that is at rest */
    uint64_t seed;
    uint32_t outstanding;         /* of all */
};

int send_paths_open(struct send_paths *paths, uint64_t seed) UR_MUST_CHECK;
void send_paths_free(struct send_paths *paths);
/* Whether a train of such segments may be tried. `to` NULL: the peer of the connected socket. */
bool send_path_takes(struct send_paths *paths, const struct udpring_address *to, uint32_t segment);
/* Whether it is known that such trains are refused. Any thread, as long as none does anything else here. */
bool send_path_refuses(const struct send_paths *paths, const struct udpring_address *to, uint32_t segment);
/* Whether a send (segment 0: of a single datagram) must wait for the results of others to the same destination;
 * `ordered`: to any. */
bool send_path_must_wait(const struct send_paths *paths, const struct udpring_address *to, uint32_t segment, bool ordered);
/* A train goes: notes it when it is unproven. Returns the path for send_path_ended, or SEND_PATH_NONE. Only after
 * send_path_must_wait said no. */
uint32_t send_path_sent(struct send_paths *paths, const struct udpring_address *to, uint32_t segment);
/* An unproven train has its result. */
void send_path_ended(struct send_paths *paths, uint32_t path, uint32_t segment, bool sent);
/* A route refused a train as such, with this -errno: EMSGSIZE for its segment size, anything else for being one. */
void send_path_refused(struct send_paths *paths, const struct udpring_address *to, uint32_t segment, int32_t error);
#endif
