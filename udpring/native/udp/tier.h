/* The names of the tiers. Python reads UDPRING_TIER (udp/tiers.py). The core gets a number. */
#ifndef UDPRING_UDP_TIER_H
#define UDPRING_UDP_TIER_H
#include "../base.h"

#include "abi.h"

#define UDP_TIER_REASON_BYTES 640   /* the reasons of two tiers, with their names */
#endif
