#include "buffers.h"

#include <stdlib.h>

#define GROUP 0

int net_buffers_open(struct udpring_net *net, struct udpring_reason *why)
{
    struct net_buffer_list *list = &net->buffers;
    uint32_t count = list->count = net->options.buffers;
    list->bytes = net->options.buffer_bytes;
    list->memory = net->events->memory;
    list->position = calloc(count, sizeof(*list->position));
    list->stack = calloc(count, sizeof(*list->stack));
    list->claimed = calloc(count, sizeof(*list->claimed));
    list->is_lent = calloc(count, sizeof(*list->is_lent));
    list->lent = calloc(count, sizeof(*list->lent));
    if (!list->position || !list->stack || !list->claimed || !list->is_lent || !list->lent)
        return ur_fail(why, -ENOMEM, "%u receive buffers of %u bytes: no memory", count, list->bytes);
    if (net->poll_fd < 0) {
        int code = ur_bufring_open(&list->ring, &net->ring, GROUP, count, why);
        if (code)
            return code;
    }
    list->out = count;
    for (uint32_t id = 0; id < count; id++)
        list->lent[id] = (uint16_t)id;
    list->lent_count = count;
    net_buffers_give_back(net);
    return 0;
}

void net_buffers_close(struct udpring_net *net)
{
    struct net_buffer_list *list = &net->buffers;
    if (net->poll_fd < 0)
        ur_bufring_close(&list->ring, &net->ring);
    free(list->position);
    free(list->stack);
    free(list->claimed);
    free(list->is_lent);
    free(list->lent);
    memset(list, 0, sizeof(*list));
}

static void restore(struct udpring_net *net, uint16_t id)
{
    struct net_buffer_list *list = &net->buffers;
    list->out--;
    if (net->poll_fd >= 0) {
        list->stack[list->count - list->out - 1] = id;
        return;
    }
    list->position[id] = list->ring.tail;
    ur_bufring_add(&list->ring, list->memory + (size_t)id * list->bytes, list->bytes, id);
}

static void publish(struct udpring_net *net)
{
    if (net->poll_fd < 0)
        ur_bufring_publish(&net->buffers.ring);
}

void net_buffers_give_back(struct udpring_net *net)
{
    struct net_buffer_list *list = &net->buffers;
    if (!list->lent_count)
        return;
    for (uint32_t i = 0; i < list->lent_count; i++) {
        list->is_lent[list->lent[i]] = 0;
        if (!list->claimed[list->lent[i]])
            restore(net, list->lent[i]);
    }
    list->lent_count = 0;
    publish(net);
}

int32_t net_buffers_peek(const struct udpring_net *net)
{
    const struct net_buffer_list *list = &net->buffers;
    return list->out < list->count ? list->stack[list->count - list->out - 1] : -ENOBUFS;
}

static void add_row(struct udpring_net *net, uint64_t connection, uint64_t start, uint32_t length)
{
    struct udpring_net_events *events = net->events;
    events->ids[events->rows] = connection;
    events->starts[events->rows] = start;
    events->lengths[events->rows] = length;
    events->rows++;
}

void net_buffers_lend(struct udpring_net *net, uint64_t connection, uint16_t id, uint32_t length, bool shown)
{
    struct net_buffer_list *list = &net->buffers;
    if (id >= list->count)
        return;   /* no kernel does this */
    uint64_t start = 0;
    uint32_t run = 0, left = length;
    uint16_t at = list->position[id];
    do {
        uint32_t part = left < list->bytes ? left : list->bytes;
        uint64_t place = (uint64_t)id * list->bytes;
        list->lent[list->lent_count++] = id;
        list->is_lent[id] = 1;
        list->out++;
        /* A run of buffers that follow each other in memory is one row. */
        if (run && place == start + run) {
            run += part;
        } else {
            if (run && shown)
                add_row(net, connection, start, run);
            start = place;
            run = part;
        }
        left -= part;
        if (left)
            id = list->ring.entries[(uint16_t)(++at) & (list->count - 1)].bid;
    } while (left && list->lent_count < list->count);
    if (run && shown)
        add_row(net, connection, start, run);
}

/* Marks the buffers of a row. 0 or -ENOENT. */
static int change(struct net_buffer_list *list, uint64_t start, uint32_t length, bool claimed)
{
    uint64_t bytes = (uint64_t)list->count * list->bytes;
    if (!list->memory || start % list->bytes || start >= bytes || length > bytes - start)
        return -ENOENT;
    uint32_t first = (uint32_t)(start / list->bytes), count = (length + list->bytes - 1) / list->bytes;
    for (uint32_t i = first; i < first + count; i++)
        if (list->claimed[i] == claimed || (claimed && !list->is_lent[i]))
            return -ENOENT;
    memset(list->claimed + first, claimed, count);
    list->claimed_count = claimed ? list->claimed_count + count : list->claimed_count - count;
    return 0;
}

int net_buffers_claim(struct udpring_net *net, uint64_t start, uint32_t length)
{
    return change(&net->buffers, start, length, true);
}

int net_buffers_release(struct udpring_net *net, uint64_t start, uint32_t length)
{
    struct net_buffer_list *list = &net->buffers;
    int code = change(list, start, length, false);
    if (code)
        return code;
    uint32_t first = (uint32_t)(start / list->bytes), count = (length + list->bytes - 1) / list->bytes;
    for (uint32_t i = first; i < first + count; i++)
        if (!list->is_lent[i])   /* otherwise the next turn gives it back */
            restore(net, (uint16_t)i);
    publish(net);
    return 0;
}
