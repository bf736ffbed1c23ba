#include "replay.h"

#define WORDS (REPLAY_BITS / 64)

_Static_assert((WORDS & (WORDS - 1)) == 0, "the ring is indexed by masking");
_Static_assert(-WG_REJECT_AFTER_MESSAGES == (UINT64_C(1) << 13) + 1, "2^64 - 2^13 - 1");

void replay_reset(struct replay_window *window)
{
    memset(window, 0, sizeof(*window));
}

/* The part of the answer that needs no bit. */
static bool within_limits(const struct replay_window *window, uint64_t counter)
{
    if (counter >= WG_REJECT_AFTER_MESSAGES)
        return false;
    return counter > window->last || window->last - counter <= REPLAY_WINDOW;
}

bool replay_check(const struct replay_window *window, uint64_t counter)
{
    if (!within_limits(window, counter))
        return false;
    return counter > window->last || !(window->bits[counter / 64 % WORDS] >> (counter % 64) & 1);
}

bool replay_update(struct replay_window *window, uint64_t counter)
{
    if (!within_limits(window, counter))
        return false;
    if (counter > window->last) {
        uint64_t from = window->last / 64, words = counter / 64 - from;
        if (words > WORDS)
            words = WORDS;
        for (uint64_t i = 1; i <= words; i++)
            window->bits[(from + i) % WORDS] = 0;
        window->last = counter;
    }
    uint64_t *word = &window->bits[counter / 64 % WORDS], bit = UINT64_C(1) << (counter % 64);
    bool fresh = !(*word & bit);
    *word |= bit;
    return fresh;
}
