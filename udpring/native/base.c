#include "base.h"

#include <stdarg.h>
#include <stdio.h>

int ur_fail(struct udpring_reason *why, int code, const char *format, ...)
{
    if (why) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(why->text, sizeof(why->text), format, arguments);
        va_end(arguments);
    }
    return code;
}
