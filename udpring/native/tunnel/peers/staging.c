#include "staging.h"

#include <stdlib.h>

/* The bytes that a packet counts for: about its memory. */
static uint32_t weight(uint32_t length)
{
    return length + STAGED_OVERHEAD;
}

static void leave_list(struct staging_all *all, struct staging *staging)
{
    if (staging->before)
        staging->before->behind = staging->behind;
    else if (!(all->first[staging->step] = staging->behind))
        all->steps &= ~(1ull << staging->step);
    if (staging->behind)
        staging->behind->before = staging->before;
    staging->before = staging->behind = NULL;
}

static void enter_list(struct staging_all *all, struct staging *staging, uint32_t step)
{
    staging->step = step;
    staging->behind = all->first[step];
    if (staging->behind)
        staging->behind->before = staging;
    all->first[step] = staging;
    all->steps |= 1ull << step;
}

/* The queue holds so many bytes now. `held`: it was in a list before. */
static void weighs(struct staging_all *all, struct staging *staging, uint32_t bytes, bool held)
{
    uint32_t step = bytes / STAGING_STEP_BYTES;
    step = step < STAGING_STEPS ? step : STAGING_STEPS - 1;
    all->bytes = all->bytes - staging->bytes + bytes;
    staging->bytes = bytes;
    if (held && bytes && step == staging->step)
        return;
    if (held)
        leave_list(all, staging);
    if (bytes)
        enter_list(all, staging, step);
}

void staging_forget(struct staging_all *all, struct staging *staging)
{
    struct staged_packet *oldest = staging->packets[staging->head];
    staging->head = (staging->head + 1) % STAGED_MAX;
    staging->count--;
    weighs(all, staging, staging->bytes - weight(oldest->length), true);
    explicit_bzero(oldest->data, oldest->length);
    free(oldest);
}

static struct staged_packet *copied(const uint8_t *packet, uint32_t length)
{
    struct staged_packet *copy = malloc(sizeof(*copy) + length + WG_PADDING);
    if (copy) {
        copy->length = length;
        memcpy(copy->data, packet, length);
    }
    return copy;
}

/* One of the longest, within a step. */
static struct staging *longest(const struct staging_all *all)
{
    return all->steps ? all->first[63 - __builtin_clzll(all->steps)] : NULL;
}

int staging_put(struct staging_all *all, struct staging *staging, const uint8_t *packet, uint32_t length, uint32_t *gone)
{
    *gone = 0;
    if (!staging->packets && !(staging->packets = calloc(STAGED_MAX, sizeof(*staging->packets))))
        return -ENOMEM;
    if (staging->count == STAGED_MAX) {
        staging_forget(all, staging);
        ++*gone;
    }
    /* A small packet makes room for little, so this has a bound. */
    for (; all->bytes + weight(length) > all->most; ++*gone) {
        struct staging *gives = longest(all);
        if (!gives || *gone >= STAGED_MAX)
            return -ENOMEM;
        staging_forget(all, gives);
    }
    struct staged_packet *copy = copied(packet, length);
    if (!copy)
        return -ENOMEM;
    staging->packets[(staging->head + staging->count++) % STAGED_MAX] = copy;
    weighs(all, staging, staging->bytes + weight(length), staging->count > 1);
    return 0;
}
