/* Anonymous mappings kept from one input to the next, because creating them and their page faults take half of a short run. */
#ifndef UDPRING_FUZZ_MODEL_MAPPINGS_H
#define UDPRING_FUZZ_MODEL_MAPPINGS_H
#include "input.h"

/* While set, munmap() and madvise() are the model's too (NAME.wrap names them), so memory is kept. */
extern bool memory_kept;
/* Kernel memory with its old contents. NULL: none is kept, or there is none. */
void *memory_map(size_t bytes);
#endif
