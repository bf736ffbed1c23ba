#include "send_job.h"

#include <stdlib.h>

#define PROBES_MAX 32u   /* probes of the table for one datagram. After more the window ends before it */

/* Makes room for the arrays of `count` datagrams. */
static int make_room(struct send_job *job, uint32_t count)
{
    if (job->capacity >= count)
        return 0;
    free(job->memory);
    job->capacity = 0;
    size_t one = sizeof(*job->vector) + sizeof(*job->offsets) + sizeof(*job->lengths) + sizeof(*job->order);
    uint32_t capacity = 256;
    while (capacity < count && capacity < 1u << 31)
        capacity *= 2;
    job->memory = capacity < count ? NULL : malloc(one * capacity);
    if (!job->memory)
        return -ENOMEM;
    job->capacity = capacity;
    return 0;
}

/* Takes the caller's lengths. All datagrams must be inside the data. Without offsets they must use all of it. */
static int take_lengths(struct send_job *job, uint32_t *copy)
{
    const struct udpring_send_job *face = job->face;
    uint64_t sum = 0;
    memcpy(copy, (const void *)face->lengths, face->count * sizeof(*copy));   /* may be unaligned */
    for (uint32_t i = 0; i < face->count; i++)
        sum += copy[i];
    job->lengths = copy;
    return face->offsets || sum == face->bytes ? 0 : -EINVAL;
}

/* Takes one length for all. The last datagram gets the remaining bytes. */
static int take_length(struct send_job *job)
{
    const struct udpring_send_job *face = job->face;
    job->last = face->length;
    if (face->offsets)
        return 0;
    uint64_t before = (uint64_t)face->length * (face->count - 1);
    if (face->bytes < before || face->bytes - before > face->length || (face->count > 1 && face->bytes == before))
        return -EINVAL;
    job->last = (uint32_t)(face->bytes - before);
    return 0;
}

static int take_offsets(struct send_job *job, uint64_t *copy)
{
    const struct udpring_send_job *face = job->face;
    if (face->offset_bytes != 4 && face->offset_bytes != 8)
        return -EINVAL;
    for (uint32_t i = 0; i < face->count; i++) {
        copy[i] = face->offset_bytes == 4 ? ((const uint32_t *)face->offsets)[i] : ((const uint64_t *)face->offsets)[i];
        uint32_t length = send_job_length(job, i);
        if (copy[i] > face->bytes || length > face->bytes - copy[i])
            return -EINVAL;
    }
    job->offsets = copy;
    return 0;
}

int send_job_take(struct send_job *job, struct udpring_send_job *face, bool group)
{
    uint32_t count = face->count;
    job->face = face;
    job->lengths = NULL;
    job->offsets = NULL;
    job->order = NULL;
    job->vector = NULL;
    job->planned = job->at = 0;
    job->flat = 0;
    if (!count)
        return face->bytes ? -EINVAL : 0;
    if (face->address_count > 1 && face->address_count != count)
        return -EINVAL;
    group = group && face->address_count > 1 && !(face->flags & (UDPRING_SEND_ORDERED | UDPRING_SEND_PLAIN));
    int code = 0;
    if (face->lengths || face->offsets || group)
        code = make_room(job, count);
    if (code)
        return code;
    struct iovec *vector = job->memory;   /* NULL: no array is needed */
    uint64_t *offsets = vector ? (uint64_t *)(void *)(vector + job->capacity) : NULL;
    uint32_t *lengths = offsets ? (uint32_t *)(offsets + job->capacity) : NULL;
    code = face->lengths ? take_lengths(job, lengths) : take_length(job);
    if (!code && face->offsets)
        code = take_offsets(job, offsets);
    if (code)
        return code;
    if (group)
        job->order = lengths + job->capacity;
    if (face->offsets || group)
        job->vector = vector;
    else
        job->planned = count;
    memset(face->results, 0, count * sizeof(*face->results));
    return 0;
}

void send_job_free(struct send_job *job)
{
    free(job->memory);
    free(job);
}

uint64_t send_address_hash(const struct udpring_address *address, uint64_t seed)
{
    uint64_t words[3];
    _Static_assert(sizeof(words) == sizeof(*address), "hashed as three words");
    memcpy(words, address, sizeof(words));
    __extension__ typedef unsigned __int128 wide;
    wide first = (wide)(words[0] ^ seed) * (words[1] ^ 0x9e3779b97f4a7c15u);
    wide second = (wide)((uint64_t)(first >> 64) ^ (uint64_t)first ^ seed) * (words[2] ^ 0xd6e8feb86659fd93u);
    return (uint64_t)(second >> 64) ^ (uint64_t)second;
}

/* Links the datagrams from index `start` on by destination. Returns how many it linked. *groups: the number of groups. */
static uint32_t link_groups(const struct send_job *job, struct send_plan *plan, uint32_t start, uint32_t count,
                            uint32_t *groups)
{
    const struct udpring_address *addresses = job->face->addresses + start;
    uint32_t mask = 16, made = 0, group = 0;
    while (mask < 2 * count)
        mask *= 2;
    memset(plan->table, 0, mask * sizeof(plan->table[0]));
    mask--;
    uint32_t i = 0;
    for (; i < count; i++) {
        plan->next[i] = UINT16_MAX;
        if (made && send_address_equal(&addresses[i], &addresses[plan->head[group]])) {
            plan->next[plan->tail[group]] = (uint16_t)i;   /* same destination as the previous one */
            plan->tail[group] = (uint16_t)i;
            continue;
        }
        uint32_t at = (uint32_t)send_address_hash(&addresses[i], plan->seed) & mask, probes = 0;
        while (plan->table[at] && !send_address_equal(&addresses[i], &addresses[plan->head[plan->table[at] - 1]])) {
            at = (at + 1) & mask;
            if (++probes == PROBES_MAX)
                break;
        }
        if (probes == PROBES_MAX)
            break;
        if (plan->table[at]) {
            group = plan->table[at] - 1u;
            plan->next[plan->tail[group]] = (uint16_t)i;
        } else {
            group = made++;
            plan->table[at] = (uint16_t)made;
            plan->head[group] = (uint16_t)i;
        }
        plan->tail[group] = (uint16_t)i;
    }
    *groups = made;
    return i;
}

void send_job_plan(struct send_job *job, struct send_plan *plan)
{
    uint32_t start = job->planned, left = job->face->count - start;
    uint32_t count = left < SEND_WINDOW ? left : SEND_WINDOW, position = start, groups = 0;
    struct iovec *by_index = job->vector + start;
    if (job->order)
        count = link_groups(job, plan, start, count, &groups);
    /* Offsets are in the caller's order. Where they follow from the lengths, compute those of the window first. `order` then
     * maps positions to them. */
    if (!job->order) {
        for (uint32_t i = 0; i < count; i++)
            by_index[i] = (struct iovec){.iov_base = (void *)(uintptr_t)(job->face->data + job->offsets[start + i]),
                                         .iov_len = send_job_length(job, start + i)};
        job->planned = start + count;
        return;
    }
    if (!job->offsets) {
        uint64_t at = job->flat;
        uint64_t *offsets = (uint64_t *)(void *)((struct iovec *)job->memory + job->capacity);
        for (uint32_t i = start; i < start + count; i++) {
            offsets[i] = at;
            at += send_job_length(job, i);
        }
        job->flat = at;
    }
    const uint64_t *offsets = (const uint64_t *)(const void *)((struct iovec *)job->memory + job->capacity);
    for (uint32_t group = 0; group < groups; group++)
        for (uint32_t i = plan->head[group]; i != UINT16_MAX; i = plan->next[i]) {
            uint32_t index = start + i;
            job->order[position] = index;
            job->vector[position++] = (struct iovec){.iov_base = (void *)(uintptr_t)(job->face->data + offsets[index]),
                                                     .iov_len = send_job_length(job, index)};
        }
    job->planned = start + count;
}

static uint32_t length_at(const struct send_job *job, uint32_t position)
{
    return job->vector ? (uint32_t)job->vector[position].iov_len : send_job_length(job, position);
}

/* The number of consecutive datagrams of equal length and destination from position `at`, including a shorter last one. */
static uint32_t run(const struct send_job *job, uint32_t size, uint32_t segments, uint32_t bytes, uint32_t *total)
{
    uint32_t most = job->planned - job->at, count = 1;
    if (most > segments)
        most = segments;
    const struct udpring_address *to = send_job_address(job, send_job_index(job, job->at));
    bool one = job->face->address_count <= 1;
    if (one && !job->lengths && !job->vector) {   /* all are equal: no need to compare */
        if (most > bytes / size)
            most = bytes / size;
        if (most > 1) {
            count = most;
            *total = size * (count - 1) + send_job_length(job, job->at + count - 1);
        }
        return count;
    }
    for (; count < most; count++) {
        uint32_t position = job->at + count, length = length_at(job, position);
        if (!length || length > size || length > bytes - *total)
            break;
        if (!one && !send_address_equal(to, send_job_address(job, send_job_index(job, position))))
            break;
        *total += length;
        if (length < size)
            return count + 1;
    }
    return count;
}

void send_job_cut(const struct send_job *job, uint32_t segments, uint32_t bytes, struct send_train *train)
{
    uint32_t size = length_at(job, job->at), total = size, count = 1;
    if (segments > 1 && size && size <= bytes / 2)
        count = run(job, size, segments, bytes, &total);
    *train = (struct send_train){.first = job->at, .count = count, .segment = size, .length = total};
    if (job->vector)
        train->vector = job->vector + job->at;
    else
        train->data = job->face->data + job->flat;
}

void send_job_advance(struct send_job *job, struct send_train *train)
{
    job->at += train->count;
    if (!train->vector) {
        job->flat += train->length;
        return;
    }
    struct iovec *last = train->vector;
    for (uint32_t i = 1; i < train->count; i++) {
        const struct iovec *piece = &train->vector[i];
        if ((uint8_t *)last->iov_base + last->iov_len == piece->iov_base)
            last->iov_len += piece->iov_len;
        else
            *++last = *piece;
    }
    train->vectors = (uint32_t)(last - train->vector) + 1;
}

const uint8_t *send_train_datagram(const struct send_train *train, uint32_t n)
{
    size_t skip = (size_t)n * train->segment;
    if (!train->vector)
        return train->data + skip;
    const struct iovec *piece = train->vector;
    for (; skip >= piece->iov_len && piece < train->vector + train->vectors - 1; piece++)
        skip -= piece->iov_len;
    return (const uint8_t *)piece->iov_base + skip;
}
