#include "moderation.h"

#include "../limits.h"

static uint64_t gathering_ns(uint64_t rate)
{
    uint64_t wait = MODERATION_GATHER * NS_PER_S / rate;
    return wait < MODERATION_WAIT_NS ? wait : MODERATION_WAIT_NS;
}

static void stop(struct moderation *moderation)
{
    moderation->wait_ns = 0;
    moderation->run = 0;
}

/* Some windows in a row of many datagrams, few at a time: one alone may be a burst. */
static void perhaps_begin(struct moderation *moderation, uint64_t now, uint64_t rate, uint64_t a_pass)
{
    if (rate < MODERATION_RATE || a_pass >= MODERATION_A_PASS || now < moderation->not_before_ns) {
        moderation->run = 0;
        return;
    }
    if (!moderation->run || rate < moderation->expected)
        moderation->expected = rate;
    if (++moderation->run < MODERATION_RUN)
        return;
    moderation->run = 0;
    moderation->wait_ns = gathering_ns(rate);
}

static void go_on(struct moderation *moderation, uint64_t now, uint64_t rate)
{
    moderation->run = rate < moderation->expected / 4 * 3 ? moderation->run + 1 : 0;
    if (rate < MODERATION_RATE / 2) {
        stop(moderation);
    } else if (moderation->run == MODERATION_RUN) {
        stop(moderation);
        moderation->not_before_ns = now + MODERATION_PENALTY_NS;
    } else {
        moderation->wait_ns = gathering_ns(rate);
    }
}

uint64_t moderation_wait(struct moderation *moderation, uint64_t now, uint64_t items, uint64_t passes)
{
    uint64_t elapsed = now - moderation->window_ns;
    if (ur_likely(elapsed < MODERATION_WINDOW_NS && moderation->window_ns))
        return moderation->wait_ns;
    if (moderation->window_ns && passes != moderation->passes) {
        uint64_t count = items - moderation->items;
        uint64_t rate = (uint64_t)((double)count * (double)NS_PER_S / (double)elapsed);
        if (moderation->wait_ns)
            go_on(moderation, now, rate);
        else
            perhaps_begin(moderation, now, rate, count / (passes - moderation->passes));
    }
    moderation->window_ns = now;
    moderation->items = items;
    moderation->passes = passes;
    return moderation->wait_ns;
}
