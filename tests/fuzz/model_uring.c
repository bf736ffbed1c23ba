/* io_uring as the model's kernel has it: not at all. */
#include <errno.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "model_kernel.h"

long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...);

/* Not every call has six arguments; what is read for the others is not used. */
__attribute__((no_sanitize("address"))) long __wrap_syscall(long number, ...)
{
    long argument[6];
    va_list list;
    va_start(list, number);
    for (int i = 0; i < 6; i++)
        argument[i] = va_arg(list, long);
    va_end(list);
    if (!kernel.active || number == SYS_gettid)
        return __real_syscall(number, argument[0], argument[1], argument[2], argument[3], argument[4], argument[5]);
    errno = EPERM;
    return -1;
}
