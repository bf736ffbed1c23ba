#include "recv_model.h"

#include <netinet/in.h>

#include "model_threads.h"
#include "model_uring.h"

struct recv_model model;

/* ---- arrivals ---- */

static void fill(uint32_t number, uint8_t *at, uint32_t length)
{
    memset(at, (uint8_t)(number * 7), length);
    if (length >= NUMBER)
        memcpy(at, &number, NUMBER);
}

/* kernel.received: the core has it now. */
void received(int fd, const struct kernel_packet *packet, bool truncated)
{
    CLAIM(model.tail - model.head < TAKEN, "%u messages are kept", model.tail - model.head);
    struct taken *taken = &model.taken[model.tail++ % TAKEN];
    uint32_t length = packet->length < model.slot_bytes ? packet->length : model.slot_bytes;
    uint32_t segment = packet->segment && packet->segment < length ? packet->segment : 0;
    *taken = (struct taken){.first = packet->number, .length = length, .segment = segment, .truncated = truncated,
                            .count = segment ? (length + segment - 1) / segment : 1, .source = packet->source, .tos = packet->tos,
                            .local = packet->local, .time_ns = packet->time_ns};
    model.datagrams += taken->count;
    model.bytes += length;
    model.truncated += truncated;
    model.empty += !length;
    if ((int32_t)(packet->drops - model.drops) > 0)
        model.drops = packet->drops;
}

void arrive(struct input *input)
{
    static const uint32_t sizes[] = {0, 3, 4, 20, 100, 700, 1500, 3000};
    uint8_t choice = input_u8(input), size = input_u8(input);
    struct kernel_file *file = kernel_file(model.fd);
    if (!file || model.gone)
        return;
    uint32_t copies = choice & 16 ? 1 + (choice >> 5) * 5 : 1;
    while (copies--) {
        uint32_t segment = sizes[size & 7], segments = size & 8 && file->gro && segment ? 1 + (size >> 4) : 1;
        uint32_t length = segment * segments - (segments > 1 && choice & 1 ? segment / 2 : 0);
        uint8_t *bytes = __real_malloc(length ? length : 1);
        CLAIM(bytes, "no memory");
        struct kernel_packet packet = {
            .bytes = bytes, .length = length, .segment = segments > 1 || choice & 2 ? segment : 0, .interface_index = 2,
            .source = {.family = model.family == AF_INET || choice & 4 ? AF_INET : AF_INET6, .port = 7, .ip = {192, 0, 2, choice & 3}},
            .tos = choice & 3, .drops = file->drops, .time_ns = file->timestamps ? threads_now_ns : 0};
        packet.local = (struct udpring_address){.family = (uint16_t)model.family, .ip = {10, 1}};
        for (uint32_t at = 0; at < length || !at; at += segment ? segment : 1) {
            uint32_t each = length - at < segment ? length - at : segment;
            fill(++model.number, bytes + at, each);
            if (!at)
                packet.number = model.number;
        }
        (void)kernel_put(file, &packet);
    }
    uring_poke();
}

void go_wrong(struct input *input)
{
    static const int errors[] = {ECONNREFUSED, EHOSTUNREACH, EACCES, EPROTO};
    static const int shortages[] = {ENOMEM, ENOBUFS, EAGAIN, EINTR};
    uint8_t choice = input_u8(input);
    struct kernel_file *file = kernel_file(model.fd);
    if (!file || model.gone)
        return;
    if (choice & 1) {
        file->error = errors[choice >> 1 & 3];
        file->errors += choice & 8 ? choice >> 4 : 0;
    } else {
        for (uint32_t i = 0; i <= choice >> 4; i++) {
            struct kernel_packet packet = {.bytes = __real_malloc(1), .length = 1, .error = choice & 8 ? EACCES : shortages[choice >> 1 & 3]};
            (void)kernel_put(file, &packet);
        }
    }
    uring_poke();
}

/* ---- results ---- */

const struct taken *front(void)
{
    CLAIM(model.head != model.tail, "a datagram that never came");
    return &model.taken[model.head % TAKEN];
}

static void check_bytes(const uint8_t *bytes, uint32_t length, uint32_t number)
{
    uint32_t seen;
    if (length >= NUMBER) {
        memcpy(&seen, bytes, NUMBER);
        CLAIM(seen == number, "datagram %u comes, not %u", seen, number);
    }
    for (uint32_t i = length >= NUMBER ? NUMBER : 0; i < length; i++)
        CLAIM(bytes[i] == (uint8_t)(number * 7), "datagram %u was changed at %u of %u", number, i, length);
}

static void check_addresses(const struct taken *taken, const struct udpring_packet *packet)
{
    CLAIM(!memcmp(&packet->source, &taken->source, sizeof(packet->source)), "another source, port %u", packet->source.port);
    CLAIM(!packet->local.family || !memcmp(&packet->local, &taken->local, sizeof(packet->local)), "another local address");
    CLAIM(packet->tos == taken->tos && packet->timestamp == taken->time_ns, "TOS %u, time %lu", packet->tos, (unsigned long)packet->timestamp);
}

/* The next datagram, complete and unchanged. */
void take_one(const uint8_t *bytes, uint32_t length)
{
    const struct taken *taken = front();
    uint32_t segment = taken->segment ? taken->segment : taken->length, from = model.at * segment;
    uint32_t right = model.at + 1 < taken->count ? segment : taken->length - from;
    CLAIM(length == right, "%u bytes, not %u", length, right);
    check_bytes(bytes, length, taken->first + model.at);
    if (++model.at == taken->count) {
        model.at = 0;
        model.head++;
    }
}

static void take_train(const uint8_t *bytes, uint32_t length)
{
    const struct taken *taken = front();
    CLAIM(length == taken->length, "%u bytes of a train of %u", length, taken->length);
    uint32_t segment = taken->segment ? taken->segment : length;
    for (uint32_t i = 0; i < taken->count; i++)
        check_bytes(bytes + i * segment, i + 1 < taken->count ? segment : length - i * segment, taken->first + i);
    model.head++;
}

uint64_t sum_of(const struct udpring_batch *batch)
{
    uint64_t sum = batch->count;
    for (uint32_t i = 0; i < batch->message_count; i++)
        for (uint32_t k = 0; k < batch->messages[i].length; k++)
            sum = (sum ^ batch->messages[i].data[k]) * 1099511628211u;
    for (uint32_t i = 0; i < 3 * batch->count; i++)
        sum = (sum ^ batch->columns[i]) * 1099511628211u;
    return sum;
}

/* The call tells the columns of few datagrams once more. */
static void check_few(const struct udpring_batch *batch, const struct udpring_packet *spread)
{
    const uint8_t *few = model.call->few;
    size_t columns = batch->count * UDPRING_RECV_COLUMNS_BYTES;
    if (batch->count > UDPRING_RECV_FEW)
        return;
    CLAIM(!memcmp(few, batch->columns, columns), "other columns in the call");
    for (uint32_t i = 0; i < batch->count; i++)
        CLAIM(!memcmp(few + columns + i * sizeof(spread->source), &spread[i].source, sizeof(spread->source)), "another source in the call");
}

void take_batch(void)
{
    struct udpring_batch *batch = model.call->batch;
    struct udpring_packet spread[512];
    CLAIM(batch && batch->count && batch->count <= 512, "a batch of %u", batch ? batch->count : 0);
    CLAIM(batch->base == model.call->base && batch->bytes == model.call->bytes && batch->count == model.call->count, "another batch");
    udpring_batch_spread(batch, 0, sizeof(spread[0]), (uint8_t *)spread);
    check_few(batch, spread);
    for (uint32_t i = 0; i < batch->count; i++) {
        uint32_t offset = batch->columns[i], length = batch->columns[batch->count + i];
        CLAIM(batch->columns[2 * batch->count + i] == offset + length && offset + (uint64_t)length <= batch->bytes, "columns");
        check_addresses(front(), &spread[i]);
        CLAIM(front()->count > 1 || !!(spread[i].flags & UDPRING_PACKET_TRUNCATED) == front()->truncated, "truncation is not reported");
        if (model.whole)
            take_train(batch->base + offset, length);
        else
            take_one(batch->base + offset, length);
    }
    struct udpring_recv_usage usage;
    udpring_recv_usage(model.recv, &usage);
    model.starved |= kernel.fault.hit;
    CLAIM(usage.leased <= usage.lease_limit || model.starved, "%lu buffers are kept, %lu may be", (unsigned long)usage.leased,
          (unsigned long)usage.lease_limit);
    model.reported_drops += batch->kernel_drops;
    model.held[model.held_count++] = (struct held){batch, batch->base, sum_of(batch)};
    model.call->batch = NULL;
}
