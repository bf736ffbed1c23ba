/* Explains failures of set-up in words. For this folder only. */
#ifndef UDPRING_URING_EXPLAIN_H
#define UDPRING_URING_EXPLAIN_H
#include "../base.h"

/* Fills `why` with the cause of `code` (-errno) from `call`, as far as it can be determined, and returns `code`.
 * wanted: the IORING_SETUP_* bits that the caller asked for. */
int ur_explain(struct udpring_reason *why, int code, const char *call, uint32_t entries, uint32_t wanted);
#endif
