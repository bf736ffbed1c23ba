/* The decision to be helped, by itself. */
#include "tunnel/worker/spread_trial.h"

#include <stdlib.h>

#include "abi.h"

struct udpring_trial {
    struct spread_trial trial;
};

struct udpring_trial *udpring_trial_new(void)
{
    return calloc(1, sizeof(struct udpring_trial));
}

void udpring_trial_free(struct udpring_trial *trial)
{
    free(trial);
}

int32_t udpring_trial_see(struct udpring_trial *trial, uint64_t now_ns, uint64_t cpu_ns, uint64_t bytes, uint64_t waits)
{
    struct spread_sample sample = {now_ns, cpu_ns, bytes, waits};
    return spread_trial_see(&trial->trial, &sample);
}
