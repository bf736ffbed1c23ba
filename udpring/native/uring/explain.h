/* Words for what went wrong at set-up. Inside this room only. */
#ifndef UDPRING_URING_EXPLAIN_H
#define UDPRING_URING_EXPLAIN_H
#include "../base.h"

/* Fills `why` with the cause of `code` (-errno) from `call`, as far as it can be found out, and returns `code`. */
int ur_explain(struct udpring_reason *why, int code, const char *call, uint32_t entries);
#endif
