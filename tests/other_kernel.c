/* uname() with the release of the variable KERNEL_RELEASE. Loaded by LD_PRELOAD. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

int uname(struct utsname *name)
{
    int result = (int)syscall(SYS_uname, name);
    const char *release = getenv("KERNEL_RELEASE");
    if (result == 0 && release)
        snprintf(name->release, sizeof(name->release), "%s", release);
    return result;
}
