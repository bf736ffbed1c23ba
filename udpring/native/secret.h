/* Memory for keys. Core dumps leave it out (MADV_DONTDUMP), and it is zeroised when it is given back.
 *
 * secret_new() holds what the core itself keeps: session keys, handshakes, cookie secrets. Copies in OpenSSL's and Python's memory are
 * covered in a process that called udpring_memory_hide(): it leaves out all memory. */
#ifndef UDPRING_SECRET_H
#define UDPRING_SECRET_H
#include "base.h"

#define SECRET_ALIGNMENT 64

/* Zeroes, aligned to 64 bytes. NULL: no memory. Any thread. */
void *secret_new(size_t size);
/* Zeroises and frees what secret_new() made with this size. NULL is fine. */
void secret_free(void *memory, size_t size);
/* Call it when a library may have put a key into new memory of the heap. Costs nothing unless the heap has grown. */
void secret_see_heap(void);
#endif
