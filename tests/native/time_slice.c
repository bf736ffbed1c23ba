/* The time slice of the calling thread. */
#include "tunnel/worker/time_slice.h"

#include "abi.h"

int32_t udpring_time_slice_shorten(int32_t is_short, int32_t shorten)
{
    struct time_slice slice = {.is_short = is_short};
    time_slice_shorten(&slice, shorten);
    return slice.refused ? -1 : slice.is_short;
}
