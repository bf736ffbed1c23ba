/* Memory of operations that did not end within the bound of a close. It is never freed, and counted (R5).
 * Any thread. */
#ifndef UDPRING_URING_GRAVEYARD_H
#define UDPRING_URING_GRAVEYARD_H
#include "../base.h"

/* Takes the memory over. It is never freed. NULL is fine. */
void ur_graveyard_leak(void *memory, size_t bytes);
uint64_t ur_graveyard_bytes(void);
uint64_t ur_graveyard_blocks(void);
#endif
