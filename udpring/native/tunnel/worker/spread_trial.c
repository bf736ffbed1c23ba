#include "spread_trial.h"

#include "../limits.h"

static void begin_phase(struct spread_trial *trial, bool on)
{
    trial->skip = trial->on != on;
    trial->on = on;
    trial->bytes = trial->ns = trial->run = trial->saturated = 0;
}

/* Too little traffic for help or for a comparison. */
static void calm(struct spread_trial *trial)
{
    trial->proven = false;
    trial->helped = 0;
    begin_phase(trial, false);
}

static bool pays(const struct spread_trial *trial)
{
    return trial->helped >= trial->alone + trial->alone / 16;
}

static void begin_help(struct spread_trial *trial)
{
    if (!trial->proven)
        trial->length = SPREAD_WINDOWS;
    else if (trial->length < SPREAD_WINDOWS_MAX)
        trial->length *= 4;
    begin_phase(trial, true);
}

static void give_up(struct spread_trial *trial, uint64_t now)
{
    trial->not_before_ns = now + trial->penalty_ns;
    trial->penalty_ns = trial->penalty_ns * 2 < SPREAD_PENALTY_MAX_NS ? trial->penalty_ns * 2 : SPREAD_PENALTY_MAX_NS;
    calm(trial);
}

/* Without help. SPREAD_WINDOWS saturated windows in a row are one measurement. */
static void see_alone(struct spread_trial *trial, uint64_t now)
{
    if (trial->saturated < trial->run) {
        calm(trial);
        return;
    }
    if (trial->run < SPREAD_WINDOWS)
        return;
    trial->alone = (double)trial->bytes / (double)trial->ns;
    if (!trial->helped) {
        if (now >= trial->not_before_ns)
            begin_help(trial);
        else
            begin_phase(trial, false);
    } else if (pays(trial)) {
        trial->proven = true;
        trial->penalty_ns = SPREAD_PENALTY_NS;
        begin_help(trial);
    } else {
        give_up(trial, now);
    }
}

/* With help the worker need not be saturated. A trial ends after its first half if throughput has fallen. */
static void see_helped(struct spread_trial *trial, uint64_t now)
{
    trial->helped = (double)trial->bytes / (double)trial->ns;
    bool harms = !trial->proven && trial->run == SPREAD_WINDOWS / 2 && trial->helped < trial->alone;
    if (trial->run < trial->length && !harms)
        return;
    if (!pays(trial)) {
        if (!trial->saturated && trial->helped < trial->alone / 4 * 3)
            calm(trial);
        else
            give_up(trial, now);
    } else if (!trial->proven) {   /* compared with the windows just before it */
        trial->proven = true;
        trial->penalty_ns = SPREAD_PENALTY_NS;
        begin_help(trial);
    } else {
        begin_phase(trial, false);
    }
}

bool spread_trial_see(struct spread_trial *trial, const struct spread_sample *sample)
{
    const struct spread_sample *last = &trial->last;
    if (ur_unlikely(!trial->penalty_ns))
        trial->penalty_ns = SPREAD_PENALTY_NS;
    if (last->now && trial->skip) {
        trial->skip = false;
    } else if (last->now) {
        uint64_t elapsed = sample->now - last->now;
        bool saturated = sample->waits == last->waits && sample->cpu_ns - last->cpu_ns >= elapsed / 8 * 7;
        trial->run++;
        trial->saturated += saturated;
        trial->bytes += sample->bytes - last->bytes;
        trial->ns += elapsed;
        if (trial->on)
            see_helped(trial, sample->now);
        else
            see_alone(trial, sample->now);
    }
    trial->last = *sample;
    return trial->on;
}
