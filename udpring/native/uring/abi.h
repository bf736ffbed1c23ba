/* What the ring layer shows to Python (udpring/uring). Owned by whoever builds that room; starts empty here. */
#ifndef UDPRING_URING_ABI_H
#define UDPRING_URING_ABI_H
#include "../abi.h"
#endif
