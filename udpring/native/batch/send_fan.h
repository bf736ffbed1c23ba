/* Internal to sending for Python: threads that help the owner of a ring to send datagrams to many destinations. */
#ifndef UDPRING_BATCH_SEND_FAN_H
#define UDPRING_BATCH_SEND_FAN_H
#include "../base.h"

#include "send_push.h"

struct send_fan;

/* Starts the helpers, which then wait. -EINVAL (more than UDPRING_SEND_HELPERS_MAX), -ENOMEM, -EAGAIN (thread limit). */
int send_fan_open(struct send_fan **fan, uint32_t helpers, struct udpring_reason *why) UR_MUST_CHECK;
/* Ends them. NULL is fine. `here`: false in a forked child, which has no such threads. */
void send_fan_close(struct send_fan *fan, bool here);
/* Owner's thread: sends the window that was just laid out, as far as that is possible at once. True: some or all datagrams were
 * sent. The unsent ones are then at the end of the window, in order, from job->at on. False: nothing changed. */
bool send_fan_out(struct udpring_send *send, struct send_job *job);
#endif
