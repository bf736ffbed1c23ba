/* Anonymous mappings kept from one input to the next: to make and to fault them anew takes half of a small run's time. */
#ifndef UDPRING_FUZZ_MODEL_MAPPINGS_H
#define UDPRING_FUZZ_MODEL_MAPPINGS_H
#include "input.h"

/* While set, munmap() and madvise() are the model's as well (NAME.wrap names them), and so memory is kept. */
extern bool memory_kept;
/* Memory of the kernel's: with what was in there before. NULL: none is kept, or there is none. */
void *memory_map(size_t bytes);
#endif
