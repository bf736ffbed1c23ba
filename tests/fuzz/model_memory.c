/* malloc(3) and calloc(3) that may fail, for harnesses that name them in their .wrap. */
#include "model_kernel.h"

void *__real_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);

void *__wrap_malloc(size_t bytes)
{
    return kernel_fault(true) ? NULL : __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
    return kernel_fault(true) ? NULL : __real_calloc(count, bytes);
}
