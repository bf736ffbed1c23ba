/* The time slice and policy of the calling thread. */
#include "tunnel/worker/time_slice.h"

#include "abi.h"

int32_t udpring_time_slice_set(int32_t before, int32_t is_short, int32_t patient)
{
    struct time_slice slice = {.is_short = before & 1, .is_batch = before & 2, .patient = before & 2};
    time_slice_set(&slice, is_short, patient);
    return slice.refused ? -1 : slice.is_short + 2 * slice.is_batch;
}

uint32_t udpring_time_slice_socket_rate(void)
{
    return time_slice_socket_rate(&(struct time_slice){0});
}

uint32_t udpring_time_slice_charge(uint32_t packet)
{
    return time_slice_charge(packet);
}
