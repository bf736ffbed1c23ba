/* The replay window (RFC 6479), against the set of all accepted counters. */
#include "input.h"
#include "../native/abi.h"
#include "tunnel/crypto/replay.h"

enum { TAKEN_MAX = 4000 };

static uint64_t taken[TAKEN_MAX];
static uint32_t taken_count;

static uint64_t next_counter(uint8_t operation, uint32_t value, uint64_t last, uint64_t greatest)
{
    switch (operation % 8) {
    case 0: return last + 1;
    case 1: return last + value % 70;
    case 2: return greatest - value % 9000;
    case 3: return greatest + value % 9000;
    case 4: return UINT64_MAX - value % 20000;
    case 5: return greatest - REPLAY_WINDOW + value % 5 - 2;
    case 6: return (uint64_t)value << value % 41;
    default: return taken_count ? taken[value % taken_count] : 0;
    }
}

static bool acceptable(uint64_t counter, uint64_t greatest)
{
    if (counter >= WG_REJECT_AFTER_MESSAGES || (counter <= greatest && greatest - counter > REPLAY_WINDOW))
        return false;
    for (uint32_t i = 0; i < taken_count; i++)
        if (taken[i] == counter)
            return false;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {.bytes = bytes, .length = length};
    struct udpring_replay *window = udpring_replay_new();
    uint64_t last = 0, greatest = 0;
    taken_count = 0;
    CLAIM(window, "no memory");
    while (input_left(&input, 4) && taken_count < TAKEN_MAX) {
        uint8_t operation = input_u8(&input);
        uint32_t value = input_u16(&input) | (uint32_t)input_u8(&input) << 16;
        uint64_t counter = last = next_counter(operation, value, last, greatest);
        bool expected = acceptable(counter, greatest);
        bool checked = udpring_replay_check(window, counter);
        CLAIM(checked == expected, "check of %lu: %d, greatest %lu", counter, checked, greatest);
        if (operation & 128)
            continue;   /* a look-up only: the packet was not authentic */
        bool updated = udpring_replay_update(window, counter);
        CLAIM(updated == expected, "update of %lu: %d, greatest %lu", counter, updated, greatest);
        if (!updated)
            continue;
        taken[taken_count++] = counter;
        greatest = counter > greatest ? counter : greatest;
    }
    udpring_replay_free(window);
    return 0;
}
