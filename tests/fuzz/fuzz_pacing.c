/* The decisions of moderation.h (pauses of a worker) and pacing.h (yields), with the harness's clock and rates.
 *
 * Oracles for pauses: none is longer than its bound, or than a train takes to gather at the rate of the last window. Each begins
 * only after several windows in a row with many datagrams but few a pass. A pause that spoils a rate ends, and none begins for
 * a second. A yield is due after so many delivered datagrams, and takes no more than its share of the time if others hold the
 * CPU. */
#include "input.h"
#include "../native/abi.h"
#include "tunnel/limits.h"

/* Owner: the harness, on its stack. The windows seen so far in one direction. */
struct seen {
    uint64_t began_ns, items, passes;
    uint64_t least;             /* the lowest rate of the windows in a row that speak for a pause */
    uint64_t barred_until_ns;
    uint64_t wait_ns;
    uint32_t fast, fell;        /* windows in a row */
};

static uint64_t most_wait(uint64_t rate)
{
    uint64_t wait = MODERATION_GATHER * NS_PER_S / rate;
    return wait > MODERATION_WAIT_NS ? MODERATION_WAIT_NS : wait;
}

static void window_pausing(struct seen *seen, uint64_t now, uint64_t rate, uint64_t wait)
{
    bool fell = rate < seen->least / 4 * 3;
    seen->fell = fell ? seen->fell + 1 : 0;
    if (rate < MODERATION_RATE / 2) {
        CLAIM(!wait, "it pauses at %lu a second", rate);
    } else if (seen->fell == MODERATION_RUN) {
        CLAIM(!wait, "it still pauses, though the rate fell from %lu to %lu", seen->least, rate);
        seen->barred_until_ns = now + MODERATION_PENALTY_NS;
    } else {
        CLAIM(wait == most_wait(rate), "%lu ns at %lu a second", wait, rate);
    }
    if (!wait)
        seen->fast = seen->fell = 0;
}

static void window_awake(struct seen *seen, uint64_t now, uint64_t rate, uint64_t a_pass, uint64_t wait)
{
    bool counts = rate >= MODERATION_RATE && a_pass < MODERATION_A_PASS && now >= seen->barred_until_ns;
    seen->least = !counts ? 0 : seen->fast && seen->least < rate ? seen->least : rate;
    seen->fast = counts ? seen->fast + 1 : 0;
    CLAIM((wait != 0) == (seen->fast == MODERATION_RUN), "%lu ns after %u windows", wait, seen->fast);
    CLAIM(!wait || wait == most_wait(rate), "%lu ns at %lu a second", wait, rate);
    if (wait)
        seen->fell = 0;
}

static void see_wait(struct seen *seen, uint64_t now, uint64_t items, uint64_t passes, uint64_t wait)
{
    uint64_t elapsed = now - seen->began_ns;
    CLAIM(wait <= MODERATION_WAIT_NS, "a pause of %lu ns", wait);
    if (seen->began_ns && elapsed < MODERATION_WINDOW_NS) {
        CLAIM(wait == seen->wait_ns, "it changes its mind within a window");
        return;
    }
    uint64_t count = items - seen->items;
    if (seen->began_ns && passes != seen->passes) {
        uint64_t rate = (uint64_t)((double)count * 1e9 / (double)elapsed);
        if (seen->wait_ns)
            window_pausing(seen, now, rate, wait);
        else
            window_awake(seen, now, rate, count / (passes - seen->passes), wait);
    } else {
        CLAIM(wait == seen->wait_ns, "it changes its mind for no reason");
    }
    seen->began_ns = now;
    seen->items = items;
    seen->passes = passes;
    seen->wait_ns = wait;
}

/* Datagrams at some rate, in passes that find some number of them, for some time. */
static void moderate(struct input *input)
{
    struct udpring_moderation *moderation = udpring_moderation_new();
    struct seen seen = {0};
    uint64_t now = 1000000000, items = 0, passes = 0;
    CLAIM(moderation, "no memory");
    while (input_left(input, 3)) {
        uint64_t a_pass = input_u8(input) % 48u, rate = input_u8(input) * 1000u;
        uint8_t choice = input_u8(input);
        uint32_t rounds = 1 + choice % 64;
        if (choice & 0x80)
            now += (uint64_t)rate * 10000u;   /* silence */
        for (uint32_t i = 0; i < rounds; i++) {
            uint64_t wait = udpring_moderation_wait(moderation, now, items, passes);
            see_wait(&seen, now, items, passes, wait);
            now += rate ? (a_pass + 1) * 1000000000u / rate : 1000000;
            now += choice & 0x40 ? wait : 0;   /* the sender waits for an answer, so the rate falls */
            items += a_pass + 1;
            passes += (choice & 0xf0) != 0x30;
        }
    }
    udpring_moderation_free(moderation);
}

static void give_way(struct input *input)
{
    struct udpring_pacing *pacing = udpring_pacing_new();
    uint64_t now = 1000000000, began = now, datagrams = 0, at_last = 0, barred_until = 0, long_ns = 0;
    CLAIM(pacing, "no memory");
    while (input_left(input, 2)) {
        uint8_t more = input_u8(input), took = input_u8(input);
        datagrams += more % 32;
        now += (uint64_t)(more / 32) * 50000u;
        bool due = udpring_pacing_due(pacing, now, datagrams);
        bool enough = datagrams - at_last >= PACING_DATAGRAMS;
        CLAIM(due == (enough && now >= barred_until), "%lu datagrams since it was due last, due: %d", datagrams - at_last, due);
        if (enough)
            at_last = datagrams;
        if (!due)
            continue;
        uint64_t yielded = (uint64_t)took * took * 1000u, ended = now + yielded;
        udpring_pacing_gave_way(pacing, now, ended);
        if (yielded > PACING_LONG_NS) {
            /* Without this yield, others have had no more than their share. */
            CLAIM(long_ns * PACING_REST <= now - began, "%lu ns of %lu went to others", long_ns, now - began);
            long_ns += yielded;
            barred_until = ended + yielded * PACING_REST;
        }
        now = ended;
    }
    udpring_pacing_free(pacing);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {.bytes = bytes, .length = length};
    if (input_u8(&input) & 1)
        moderate(&input);
    else
        give_way(&input);
    return 0;
}
