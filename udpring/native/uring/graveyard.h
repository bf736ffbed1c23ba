/* Memory that an operation did not let go of within the bound of a close: kept for ever, and counted (R5). */
#ifndef UDPRING_URING_GRAVEYARD_H
#define UDPRING_URING_GRAVEYARD_H
#include "../base.h"

void ur_graveyard_leak(void *memory, size_t bytes);
#endif
