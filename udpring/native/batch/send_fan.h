/* Inside of sending for Python: threads that help the owner of a ring with datagrams to many destinations. */
#ifndef UDPRING_BATCH_SEND_FAN_H
#define UDPRING_BATCH_SEND_FAN_H
#include "../base.h"

#include "send_push.h"

struct send_fan;

/* Starts the helpers, which wait. -EINVAL (more than UDPRING_SEND_HELPERS_MAX), -ENOMEM, -EAGAIN (no more threads). */
int send_fan_open(struct send_fan **fan, uint32_t helpers, struct udpring_reason *why) UR_MUST_CHECK;
/* Ends them; NULL is fine. `here`: false in a forked child, which has no such threads. */
void send_fan_close(struct send_fan *fan, bool here);
/* Owner's thread: sends what of the window that was just laid out goes at once. True: something, or all of it, went; what
 * did not is at the window's end, in order, and job->at says where. False: all is as it was. */
bool send_fan_out(struct udpring_send *send, struct send_job *job);
#endif
