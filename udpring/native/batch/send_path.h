/* Internal to sending for Python: records for each destination whether its route takes trains.
 *
 * Order: a refused train is sent again as single datagrams, and later datagrams must not overtake them. So the first train of a
 * size to a destination is unproven. Until its result is known, only trains that would be refused with it (of segments at least
 * as large) may follow it to the same destination. */
#ifndef UDPRING_BATCH_SEND_PATH_H
#define UDPRING_BATCH_SEND_PATH_H
#include "../base.h"

#include "../udp/abi.h"

#define SEND_PATHS 1024u          /* remembered at once. A power of two */
#define SEND_PATH_NONE UINT32_MAX

struct send_path {
    struct udpring_address to;
    uint32_t proven;              /* trains of segments up to this size were sent */
    uint32_t refused;             /* trains of segments from this size on were refused. 0: none */
    uint32_t outstanding;         /* unproven trains that have no result yet */
    uint32_t highest;             /* largest segment among them */
    uint64_t forget;              /* CLOCK_MONOTONIC ns: when `refused` expires, because routes change */
};

/* Owner: the udpring_send it is embedded in. Thread: its owner's. Freed by send_paths_free(). */
struct send_paths {
    struct send_path *path;       /* [SEND_PATHS] by hash. A new destination replaces one without outstanding trains */
    uint64_t seed;
    uint32_t outstanding;         /* of all */
};

int send_paths_open(struct send_paths *paths, uint64_t seed) UR_MUST_CHECK;
void send_paths_free(struct send_paths *paths);
/* Whether a train of such segments may be tried. `to` NULL: the peer of the connected socket. */
bool send_path_takes(struct send_paths *paths, const struct udpring_address *to, uint32_t segment);
/* Whether such trains are known to be refused. Any thread, while no thread calls another function of this header. */
bool send_path_refuses(const struct send_paths *paths, const struct udpring_address *to, uint32_t segment);
/* Whether a send (segment 0: a single datagram) must wait for the results of earlier trains to the same destination. With
 * `ordered`: to any destination. */
bool send_path_must_wait(const struct send_paths *paths, const struct udpring_address *to, uint32_t segment, bool ordered);
/* Call when a train is sent. Records it if it is unproven. Returns the path for send_path_ended, or SEND_PATH_NONE. Only after
 * send_path_must_wait returned false. */
uint32_t send_path_sent(struct send_paths *paths, const struct udpring_address *to, uint32_t segment);
/* Call when an unproven train has its result. */
void send_path_ended(struct send_paths *paths, uint32_t path, uint32_t segment, bool sent);
/* Call when a route refused a train with this -errno. EMSGSIZE: the segment size is too large. Else: it takes no trains. */
void send_path_refused(struct send_paths *paths, const struct udpring_address *to, uint32_t segment, int32_t error);
#endif
