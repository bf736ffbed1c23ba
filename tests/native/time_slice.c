/* The time slice and policy of the calling thread. */
#include "tunnel/worker/time_slice.h"

#include "abi.h"

int32_t udpring_time_slice_shorten(int32_t before, int32_t shorten)
{
    struct time_slice slice = {.is_short = before & 1, .is_batch = before & 2};
    time_slice_shorten(&slice, shorten);
    return slice.refused ? -1 : slice.is_short + 2 * slice.is_batch;
}
