/* Rings of a confined thread: the thread's process will deny io_uring_setup(2) and opening files by a seccomp filter.
 * Operations of a ring bypass such a filter, so these rings are restricted (IORING_REGISTER_RESTRICTIONS): they only send and
 * receive on sockets, poll, wait and cancel. And a thread keeps the rings that it closes, for its next ur_ring_open(). */
#ifndef UDPRING_URING_CONFINED_H
#define UDPRING_URING_CONFINED_H
#include "ring.h"

/* Rings that a thread keeps at most. With one more, the oldest is closed. */
#define UR_KEPT_MAX 8u

/* From now on the calling thread's rings are restricted and kept. 0 or -ENOMEM. */
int ur_confine_thread(void) UR_MUST_CHECK;
/* Closes the kept rings of the calling thread. Rings are opened and closed as usual afterwards. */
void ur_unconfine_thread(void);
bool ur_thread_confined(void);

/* For setup.c and close.c. */
/* Moves a kept ring that was opened with these options into `ring`. False: there is none. */
bool ur_kept_take(struct ur_ring *ring, const struct ur_ring_options *options);
/* Takes a ring without operations. False: it must be closed. */
bool ur_kept_put(struct ur_ring *ring);
/* Of a disabled ring. 0 or -errno. */
int ur_restrict(struct ur_ring *ring) UR_MUST_CHECK;
#endif
