#include "batches.h"

#include <stdlib.h>

#include "../udp/rx_tier.h"

#define IDLE_MAX 16u          /* batches kept for reuse */
#define IDLE_BYTES 65536u     /* larger ones are freed */

/* Owner: its udp_batches. Between build and return, the holder. Thread: the owner's, or the holder's. Freed by the udp_batches.
 * `memory` contains the messages, the columns, and for a copy also the datagrams. */
struct udp_batch {
    struct udpring_batch face;
    struct udpring_recv *recv;
    struct udp_batch *next;           /* in `idle` or `returned` */
    size_t room;                      /* bytes of memory */
    bool copy;                        /* the datagrams are in `memory`. false: in leased slots */
    _Alignas(struct udpring_packet) uint8_t memory[];
};

int udp_batches_open(struct udp_batches *batches, struct udp_rx *rx, uint32_t slots)
{
    batches->rx = rx;
    batches->capacity = slots;
    batches->a_message = 1;
    batches->ready = calloc(slots, sizeof(*batches->ready));
    batches->holders = calloc(slots, sizeof(*batches->holders));
    return batches->ready && batches->holders ? 0 : -ENOMEM;
}

static void free_list(struct udp_batch *batch)
{
    while (batch) {
        struct udp_batch *next = batch->next;
        free(batch);
        batch = next;
    }
}

void udp_batches_free(struct udp_batches *batches)
{
    free_list(batches->idle);
    free_list(atomic_load_explicit(&batches->returned, memory_order_acquire));
    free(batches->ready);
    free(batches->holders);
}

/* Whether the first ready message is in this slot. Batches may hold earlier parts of its train. No other ready message is
 * shared with batches. */
static bool waits(const struct udp_batches *batches, uint32_t slot)
{
    return batches->head < batches->tail && batches->ready[batches->head].slot == slot;
}

static void end_lease(struct udp_batches *batches, const struct udp_batch *batch)
{
    for (uint32_t i = 0; i < batch->face.message_count; i++) {
        uint32_t slot = batch->face.messages[i].slot;
        if (--batches->holders[slot])
            continue;
        batches->usage.leased--;
        if (!waits(batches, slot))
            udp_rx_release(batches->rx, slot);
    }
}

static void put_idle(struct udp_batches *batches, struct udp_batch *batch)
{
    if (batches->idle_count == IDLE_MAX || batch->room > IDLE_BYTES) {
        free(batch);
        return;
    }
    batch->next = batches->idle;
    batches->idle = batch;
    batches->idle_count++;
}

void udp_batches_reclaim(struct udp_batches *batches)
{
    if (ur_likely(!atomic_load_explicit(&batches->returned, memory_order_relaxed)))
        return;
    struct udp_batch *batch = atomic_exchange_explicit(&batches->returned, NULL, memory_order_acquire);
    while (batch) {
        struct udp_batch *next = batch->next;
        if (batch->copy)
            batches->usage.copies -= sizeof(*batch) + batch->room;
        else
            end_lease(batches, batch);
        put_idle(batches, batch);
        batch = next;
    }
}

static uint32_t datagrams(const struct udp_batches *batches, const struct udpring_packet *message)
{
    if (!message->segment_size || batches->whole_trains)
        return 1;
    return (message->length + message->segment_size - 1) / message->segment_size;
}

uint32_t udp_batches_drop(struct udp_batches *batches, uint32_t socket)
{
    uint32_t to = batches->head, dropped = 0;
    for (uint32_t at = batches->head; at < batches->tail; at++) {
        const struct udpring_packet *message = &batches->ready[at];
        if (message->socket_index != socket) {
            batches->ready[to++] = *message;
            continue;
        }
        uint32_t size = message->segment_size;
        dropped += size ? (message->length + size - 1) / size : 1;
        if (!batches->holders[message->slot])   /* else the last batch with a part of the train frees it */
            udp_rx_release(batches->rx, message->slot);
    }
    batches->tail = to;
    if (batches->head == batches->tail)
        batches->head = batches->tail = 0;
    return dropped;
}

/* Harvests more messages behind the ready ones. False: none arrived. */
static bool harvest(struct udp_batches *batches, uint32_t wanted, uint32_t messages)
{
    if (batches->head) {
        memmove(batches->ready, batches->ready + batches->head, (batches->tail - batches->head) * sizeof(*batches->ready));
        batches->tail -= batches->head;
        batches->head = 0;
    }
    uint32_t room = batches->capacity - batches->tail;
    uint32_t ask = wanted / batches->a_message;
    ask = ask ? ask : 1;
    ask = ask < messages ? ask : messages;
    uint32_t got = udp_rx_harvest(batches->rx, batches->ready + batches->tail, ask < room ? ask : room);
    batches->tail += got;
    return got;
}

bool udp_batches_waiting(const struct udp_batches *batches)
{
    return batches->head < batches->tail;
}

bool udp_batches_returned(const struct udp_batches *batches)
{
    return atomic_load(&batches->returned) != NULL;
}

int udp_batches_gather(struct udp_batches *batches, uint32_t max, struct udp_share *share)
{
    *share = (struct udp_share){0};
    uint32_t most = batches->capacity;   /* messages */
    if (ur_unlikely(batches->usage.copies >= batches->usage.copy_limit)) {
        if (batches->usage.leased >= batches->usage.lease_limit)
            return -ENOBUFS;
        most = (uint32_t)(batches->usage.lease_limit - batches->usage.leased);
    }
    while (share->datagrams < max && share->messages < most) {
        if (batches->head + share->messages == batches->tail &&
            !harvest(batches, max - share->datagrams, most - share->messages))
            break;
        const struct udpring_packet *message = &batches->ready[batches->head + share->messages++];
        uint32_t count = datagrams(batches, message), room = max - share->datagrams;
        if (count > room) {
            share->last_count = room;
            share->datagrams = max;
            share->payload += (uint64_t)room * message->segment_size;
        } else {
            share->datagrams += count;
            share->payload += message->length;
        }
    }
    if (share->messages)
        batches->a_message = share->datagrams / share->messages;
    return 0;
}

/* Harvests up to `messages` of this socket. Messages of another one are there only if an exception in the program kept it from
 * fetching them. */
static uint32_t harvest_from(struct udp_batches *batches, uint32_t socket, uint32_t messages)
{
    if (ur_unlikely(batches->head < batches->tail)) {
        if (batches->ready[batches->head].socket_index == socket)
            return batches->tail - batches->head;
        while (udp_batches_waiting(batches))
            batches->rx->stats.removed += udp_batches_drop(batches, batches->ready[batches->head].socket_index);
    }
    batches->tail = udp_rx_harvest_from(batches->rx, socket, batches->ready,
                                        messages < batches->capacity ? messages : batches->capacity);
    return batches->tail;
}

int udp_batches_gather_from(struct udp_batches *batches, uint32_t socket, uint32_t max, struct udp_share *share)
{
    *share = (struct udp_share){0};
    uint32_t messages = max / batches->a_message;
    share->messages = harvest_from(batches, socket, messages ? messages : 1);
    for (uint32_t i = 0; i < share->messages; i++) {
        share->datagrams += datagrams(batches, &batches->ready[batches->head + i]);
        share->payload += batches->ready[batches->head + i].length;
    }
    if (share->messages)
        batches->a_message = share->datagrams / share->messages;
    return 0;
}

static int take_one(struct udp_batches *batches, struct udpring_address *source, uint8_t *to, uint32_t room)
{
    const struct udpring_packet *message = &batches->ready[batches->head];
    uint32_t slot = message->slot, length = message->length;
    if (message->segment_size || length > room || batches->holders[slot])
        return -EAGAIN;
    memcpy(to, message->data, length);
    *source = message->source;
    batches->a_message = 1;
    if (++batches->head == batches->tail)
        batches->head = batches->tail = 0;
    udp_rx_release(batches->rx, slot);
    return (int)length;
}

int udp_batches_one(struct udp_batches *batches, uint32_t messages, struct udpring_address *source, uint8_t *to, uint32_t room)
{
    if (!udp_batches_waiting(batches) && !harvest(batches, UINT32_MAX, messages))
        return -EAGAIN;
    return take_one(batches, source, to, room);
}

int udp_batches_one_from(struct udp_batches *batches, uint32_t socket, struct udpring_address *source, uint8_t *to,
                         uint32_t room)
{
    return harvest_from(batches, socket, 1) ? take_one(batches, source, to, room) : -EAGAIN;
}

static struct udp_batch *take_batch(struct udp_batches *batches, size_t room)
{
    struct udp_batch *batch = batches->idle;
    if (batch) {
        batches->idle = batch->next;
        batches->idle_count--;
        if (batch->room >= room)
            return batch;
        free(batch);
    }
    batch = malloc(sizeof(*batch) + room);
    if (batch)
        batch->room = room;
    return batch;
}

/* Whether the limit allows to lease the slots of the share. A train of which a batch has a part is already leased. */
static bool may_lease(const struct udp_batches *batches, const struct udp_share *share)
{
    uint32_t more = share->messages - (batches->holders[batches->ready[batches->head].slot] != 0);
    return batches->usage.leased + more <= batches->usage.lease_limit;
}

/* Takes the messages of the share. If the last train is divided, takes only its first part. */
static void take_messages(struct udp_batches *batches, const struct udp_share *share, struct udpring_packet *messages)
{
    memcpy(messages, batches->ready + batches->head, share->messages * sizeof(*messages));
    batches->head += share->messages;
    if (share->last_count) {
        struct udpring_packet *last = &messages[share->messages - 1], *left = &batches->ready[--batches->head];
        last->length = share->last_count * last->segment_size;
        last->flags &= (uint16_t)~UDPRING_PACKET_TRUNCATED;   /* the truncated end stays in the other part */
        left->data += last->length;
        left->length -= last->length;
        if (left->length <= left->segment_size)
            left->segment_size = 0;
    }
    if (batches->head == batches->tail)
        batches->head = batches->tail = 0;
}

static void copy_out(struct udp_batches *batches, struct udp_batch *batch, struct udpring_packet *messages, uint8_t *to)
{
    for (uint32_t i = 0; i < batch->face.message_count; i++) {
        memcpy(to, messages[i].data, messages[i].length);
        messages[i].data = to;
        to += messages[i].length;
        if (!batches->holders[messages[i].slot] && !waits(batches, messages[i].slot))
            udp_rx_release(batches->rx, messages[i].slot);
    }
    batches->usage.copies += sizeof(*batch) + batch->room;
    batches->usage.copied += batch->face.count;
}

static void lease(struct udp_batches *batches, const struct udp_batch *batch)
{
    for (uint32_t i = 0; i < batch->face.message_count; i++)
        batches->usage.leased += !batches->holders[batch->face.messages[i].slot]++;
}

/* Sets base and bytes to the range from the lowest to the highest byte of the messages, in whatever slots they are. */
static void find_span(struct udpring_batch *face)
{
    const uint8_t *low = face->messages[0].data, *high = low;
    for (uint32_t i = 0; i < face->message_count; i++) {
        const uint8_t *from = face->messages[i].data, *to = from + face->messages[i].length;
        low = from < low ? from : low;
        high = to > high ? to : high;
    }
    face->base = low;
    face->bytes = (uint64_t)(high - low);
}

static void fill_columns(const struct udp_batches *batches, const struct udpring_batch *face, uint32_t *columns)
{
    uint32_t *offsets = columns, *lengths = offsets + face->count, *ends = lengths + face->count, at = 0;
    for (uint32_t i = 0; i < face->message_count; i++) {
        const struct udpring_packet *message = &face->messages[i];
        uint32_t from = (uint32_t)(message->data - face->base), end = from + message->length;
        uint32_t count = datagrams(batches, message), size = message->segment_size;
        for (uint32_t n = 0; n + 1 < count; n++) {
            offsets[at + n] = from + n * size;
            lengths[at + n] = size;
            ends[at + n] = from + (n + 1) * size;
        }
        at += count;
        offsets[at - 1] = from + (count - 1) * size;
        lengths[at - 1] = end - offsets[at - 1];
        ends[at - 1] = end;
    }
}

int udp_batches_build(struct udp_batches *batches, const struct udp_share *share, struct udpring_recv *recv,
                      struct udpring_batch **built)
{
    size_t messages_bytes = share->messages * sizeof(struct udpring_packet);
    size_t columns_bytes = (size_t)share->datagrams * UDPRING_RECV_COLUMNS_BYTES;
    struct udp_batch *batch = NULL;
    bool copy = !may_lease(batches, share);
    if (copy)
        batch = take_batch(batches, messages_bytes + columns_bytes + share->payload);
    if (!batch) {   /* without memory for a copy, exceed the lease limit rather than lose packets */
        copy = false;
        batch = take_batch(batches, messages_bytes + columns_bytes);
    }
    if (!batch)
        return -ENOMEM;
    struct udpring_packet *messages = (struct udpring_packet *)(void *)batch->memory;
    uint32_t *columns = (uint32_t *)(void *)(batch->memory + messages_bytes);
    uint64_t drops = udp_rx_stats(batches->rx)->kernel_drops;
    batch->recv = recv;
    batch->copy = copy;
    batch->face = (struct udpring_batch){
        .messages = messages, .columns = columns, .count = share->datagrams, .message_count = share->messages,
        .kernel_drops = drops - batches->drops_reported, .whole_trains = batches->whole_trains};
    batches->drops_reported = drops;
    take_messages(batches, share, messages);
    if (copy)
        copy_out(batches, batch, messages, batch->memory + messages_bytes + columns_bytes);
    else
        lease(batches, batch);
    find_span(&batch->face);
    fill_columns(batches, &batch->face, columns);
    *built = &batch->face;
    return 0;
}

struct udpring_recv *udp_batches_recv(const struct udpring_batch *face)
{
    return ((const struct udp_batch *)(const void *)face)->recv;
}

void udp_batches_return(struct udp_batches *batches, struct udpring_batch *face)
{
    struct udp_batch *batch = (struct udp_batch *)face;
    batch->next = atomic_load_explicit(&batches->returned, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&batches->returned, &batch->next, batch, memory_order_seq_cst,
                                                  memory_order_relaxed))
        ;
}
