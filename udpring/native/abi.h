/* What every room of the C core shares with Python. Each room adds its own abi.h beside its code.
 * Read by the compiler and by cffi alike: declarations and integer #defines only. */
#ifndef UDPRING_ABI_H
#define UDPRING_ABI_H
#include <stdint.h>

/* Why something could not be had, in words for a person: what was wrong, where, what to do. */
#define UDPRING_REASON_BYTES 256
struct udpring_reason {
    char text[256];
};
#endif
