#include "send_model.h"

#include <netinet/in.h>

struct send_model send_model;

/* ---- submitted jobs ---- */

void jobs_fill(uint32_t number, uint8_t *at, uint32_t length)
{
    memset(at, (uint8_t)(number * 7), length);
    if (length >= LENGTH_OF_ID)
        memcpy(at, &number, LENGTH_OF_ID);
}

static uint32_t choose_length(uint8_t choice, uint32_t n)
{
    static const uint32_t some[] = {0, 3, 4, 100, 101, 1200, 4096, 16000};
    switch (choice & 7) {
    case 0: return some[n % 7];
    case 1: return 65000 + n * 300;      /* some are too long for a datagram */
    case 2: return 40 - n % 3;
    case 3: return 8 + (n & 1);
    default: return some[(choice >> 3) & 7];
    }
}

static uint8_t choose_destination(uint8_t choice, uint32_t n)
{
    switch (choice & 3) {
    case 0: return choice >> 2 & 7;                       /* all to one */
    case 1: return (uint8_t)((choice >> 2) % 4 + n % 4);  /* in turn */
    case 2: return (uint8_t)(n / 8 % PEER);
    default: return (uint8_t)(n % PEER);
    }
}

static struct job *free_job(void)
{
    for (uint32_t i = 0; i < JOBS; i++)
        if (!send_model.job[i].live)
            return &send_model.job[i];
    return NULL;
}

static void free_memory(struct job *job)
{
    if (send_model.kept && send_model.payloads < JOBS)   /* no more were pending at the close */
        send_model.payload[send_model.payloads++] = (void *)(uintptr_t)job->face.data;
    else
        free((void *)(uintptr_t)job->face.data);
    free((void *)(uintptr_t)job->face.addresses);
    free(job->face.results);
    job->live = false;
}

/* Datagrams one after another, or in turn from both ends, with gaps. */
static void lay_out(struct job *job, const uint32_t *lengths, uint64_t *offsets, bool scattered)
{
    uint32_t count = job->face.count;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += lengths[i] + (scattered ? i % 3 : 0);
    uint8_t *data = __real_malloc(bytes ? bytes : 1);
    CLAIM(data, "no memory");
    uint64_t at = 0;
    for (uint32_t n = 0; n < count; n++) {
        uint32_t i = scattered ? (n & 1 ? count - 1 - n / 2 : n / 2) : n;
        offsets[i] = at;
        jobs_fill(job->first + i, data + at, lengths[i]);
        at += lengths[i] + (scattered ? i % 3 : 0);
    }
    job->face.data = data;
    job->face.bytes = bytes;
}

static void spoil(struct input *input, struct udpring_send_job *face)
{
    switch (input_u8(input) & 7) {
    case 0: face->bytes += 1 + face->length; break;
    case 1: face->address_count = face->count + 1; break;
    case 2: face->offset_bytes = 5; break;
    case 3: face->bytes = face->bytes / 2; break;
    case 4: face->count = 0; break;
    default: break;
    }
}

static void *narrow(const uint64_t *offsets, uint32_t count)
{
    uint32_t *narrowed = __real_malloc(count * sizeof(*narrowed));
    CLAIM(narrowed, "no memory");
    for (uint32_t i = 0; i < count; i++)
        narrowed[i] = (uint32_t)offsets[i];
    return narrowed;
}

/* Whether the arguments are valid. The core must agree. */
static bool is_right(const struct udpring_send_job *face, const uint64_t *offsets)
{
    uint64_t sum = 0;
    if (!face->count)
        return !face->bytes;
    if (face->address_count > 1 && face->address_count != face->count)
        return false;
    if (face->offsets && face->offset_bytes != 4 && face->offset_bytes != 8)
        return false;
    for (uint32_t i = 0; i < face->count; i++) {
        uint64_t length = face->lengths ? face->lengths[i] : face->length;
        sum += length;
        if (face->offsets && (offsets[i] > face->bytes || length > face->bytes - offsets[i]))
            return false;
    }
    if (face->offsets)
        return true;
    if (face->lengths)
        return sum == face->bytes;
    /* The last one may be shorter, but not empty if there are others. */
    return face->bytes <= sum && sum - face->bytes <= face->length &&
           (face->count == 1 || sum - face->bytes < face->length);
}

static void set_options(struct input *input, struct job *job)
{
    uint8_t choice = input_u8(input);
    struct udpring_send_job *face = &job->face;
    face->flags = (uint8_t)((choice & 3) == 3 ? UDPRING_SEND_ORDERED : 0) | (uint8_t)((choice & 12) == 12 ? UDPRING_SEND_PLAIN : 0) |
                  (uint8_t)((choice & 48) == 48 ? UDPRING_SEND_TOS : 0);
    job->ordered = face->flags & UDPRING_SEND_ORDERED;
    if ((choice & 0xc0) != 0xc0)
        return;
    choice = input_u8(input);
    face->tos = choice >> 2;
    face->ttl = choice & 1 ? 9 : 0;
    face->interface_index = choice & 2 ? 3 : 0;
    face->source = (struct udpring_address){.family = choice & 4 ? choice & 8 ? AF_INET6 : AF_INET : 0, .ip = {10, 0, 0, 7}};
}

void jobs_submit(struct input *input)
{
    uint8_t shape = input_u8(input), many = input_u8(input), length = input_u8(input), where = input_u8(input);
    uint32_t count = many < 160 ? 1 + many % 12 : many < 250 ? many : many == 250 ? 4100 : 1 + many % 80;
    bool uniform = shape & 1, scattered = (shape & 6) == 6;
    struct job *job = free_job();
    if (!job || send_model.items + count > ITEMS)
        return;
    *job = (struct job){.first = send_model.items + 1, .live = true};
    struct udpring_send_job *face = &job->face;
    set_options(input, job);
    if (face->source.family || count > 1000)
        length |= 4;   /* not too long, and not many bytes */
    if ((length & 7) == 1 && count > 3)
        count = 3;
    uint32_t *lengths = __real_malloc(count * sizeof(*lengths));
    uint64_t *offsets = __real_malloc(count * sizeof(*offsets));
    struct udpring_address *addresses = __real_malloc(count * sizeof(*addresses));
    CLAIM(lengths && offsets && addresses, "no memory");
    uint32_t size = count > 1000 ? 5 : count > 12 && length & 4 ? choose_length(length, 0) % 200 : choose_length(length, 0);
    for (uint32_t i = 0; i < count; i++) {
        lengths[i] = uniform || length & 4 ? size : choose_length(length, i);
        if (uniform && !scattered && i + 1 == count && size > 1)
            lengths[i] = 1 + (shape >> 4) % size;
        uint8_t to = choose_destination(shape & 8 ? where & 0xfc : where, i);
        addresses[i] = send_model.destination[to];
        send_model.item[send_model.items + 1 + i] =
            (struct item){.length = lengths[i], .job = (uint8_t)(job - send_model.job), .destination = to};
    }
    face->count = count;
    lay_out(job, lengths, offsets, scattered);
    face->addresses = addresses;
    face->address_count = shape & 8 ? kernel_file(send_model.fd) && kernel_file(send_model.fd)->peer.family && shape & 128 ? 0 : 1 : count;
    if (!face->address_count)
        for (uint32_t i = 0; i < count; i++)
            send_model.item[send_model.items + 1 + i].destination = PEER;
    face->results = __real_malloc(count * sizeof(*face->results));
    CLAIM(face->results, "no memory");
    memset(face->results, 0x7f, count * sizeof(*face->results));
    face->length = size;
    face->lengths = uniform ? NULL : lengths;
    face->offset_bytes = shape & 16 ? 4 : 8;
    void *given = scattered && shape & 16 ? narrow(offsets, count) : offsets;
    face->offsets = scattered ? given : NULL;
    if ((shape & 0xe0) == 0xe0)
        spoil(input, face);
    bool right = is_right(face, offsets);
    uint32_t submitted = face->count;
    if (right && uniform && !scattered && submitted)   /* the damaged job may be valid: a shorter last one */
        send_model.item[send_model.items + submitted].length = (uint32_t)(face->bytes - (uint64_t)(submitted - 1) * size);
    int code = udpring_send_submit(send_model.send, face);
    bool starved = kernel.fault.hit;
    kernel.fault.hit = false;
    CLAIM(code == (send_model.send->tx ? right ? 0 : -EINVAL : -ECANCELED) || (code == -ENOMEM && starved), "a job is answered by %d", code);
    CLAIM(face->count == submitted && (!!face->taken == !code), "a job that was %staken", code ? "not " : "");
    if (given != offsets)
        free(given);
    memset(lengths, 0xfe, count * sizeof(*lengths));   /* they were copied */
    memset(offsets, 0xfe, count * sizeof(*offsets));
    free(lengths);
    free(offsets);
    face->lengths = NULL;
    face->offsets = NULL;
    if (code) {
        free_memory(job);
        return;
    }
    send_model.items += submitted;
    send_model.submitted++;
}

/* ---- datagrams at the kernel ---- */

static void check_options(const struct kernel_send *message, const struct job *job)
{
    const struct udpring_send_job *face = &job->face;
    CLAIM(message->ttl == (face->ttl ? face->ttl : -1), "a TTL of %d", message->ttl);
    CLAIM(message->tos == (face->flags & UDPRING_SEND_TOS ? face->tos : -1), "a TOS of %d", message->tos);
    CLAIM(message->interface_index == face->interface_index, "interface %u", message->interface_index);
    CLAIM(message->source.family == face->source.family && (!face->source.family || !memcmp(message->source.ip, face->source.ip, 4)),
          "another source");
}

/* One datagram on the wire: it was pending, is complete, and is the next one of its destination. */
static void check_one(const struct kernel_send *message, const uint8_t *bytes, uint32_t length, enum item_state state)
{
    uint32_t number;
    if (length < LENGTH_OF_ID) {
        send_model.short_sent += state == ITEM_SENT;
        return;
    }
    memcpy(&number, bytes, sizeof(number));
    CLAIM(number && number < ITEMS, "datagram %u", number);
    struct item *item = &send_model.item[number];
    struct job *job = &send_model.job[item->job];
    CLAIM(job->live && number >= job->first && number < job->first + job->face.count, "datagram %u of a job that ended", number);
    CLAIM(item->state == ITEM_WAITS, "datagram %u is sent again", number);
    CLAIM(item->length == length, "datagram %u has %u bytes, not %u", number, length, item->length);
    CLAIM(length == LENGTH_OF_ID || (bytes[LENGTH_OF_ID] == (uint8_t)(number * 7) &&
                                     !memcmp(bytes + LENGTH_OF_ID, bytes + LENGTH_OF_ID + 1, length - LENGTH_OF_ID - 1)),
          "datagram %u was changed", number);
    const struct udpring_address *to = &send_model.destination[item->destination];
    CLAIM(!memcmp(&message->destination, to, sizeof(*to)), "datagram %u goes to port %u, not %u", number, message->destination.port,
          to->port);
    check_options(message, job);
    if (state == ITEM_WAITS)
        return;
    item->state = (uint8_t)state;
    if (state == ITEM_CUT)
        return;
    CLAIM(send_model.rerouted || number > send_model.last[item->destination], "datagram %u overtakes %u", send_model.last[item->destination], number);
    send_model.last[item->destination] = number;
    CLAIM(send_model.rerouted || !job->ordered || number > job->last_sent, "datagram %u overtakes %u in a job that is ordered", job->last_sent, number);
    job->last_sent = number;
}

static int32_t mood(const struct kernel_send *message)
{
    bool train = message->segment != 0;
    uint32_t to = 0;
    if (message->zero_copy && send_model.zero_copy_errors) {
        send_model.zero_copy_errors--;
        return -send_model.zero_copy_error;
    }
    if (train) {
        for (; to < DESTINATIONS && memcmp(&message->destination, &send_model.destination[to], sizeof(message->destination));)
            to++;
        uint32_t least = to < DESTINATIONS ? send_model.refuses[to] : 0;
        if (least && message->segment >= least)
            return least == 1 ? -send_model.refusal : -EMSGSIZE;
    }
    bool of_trains = send_model.error == EINVAL || send_model.error == EIO || send_model.error == EMSGSIZE;
    if (!send_model.errors || (train && of_trains))
        return (int32_t)message->length;
    send_model.errors--;
    return -send_model.error;
}

int32_t jobs_sent(const struct kernel_send *message)
{
    static uint8_t bytes[65536];
    uint32_t length = 0;
    for (size_t i = 0; i < message->message->msg_iovlen; i++) {
        const struct iovec *piece = &message->message->msg_iov[i];
        CLAIM(length + piece->iov_len <= sizeof(bytes), "a message of more than %zu bytes", sizeof(bytes));
        memcpy(bytes + length, piece->iov_base, piece->iov_len);
        length += (uint32_t)piece->iov_len;
    }
    struct kernel_file *file = kernel_file(message->fd);
    file->charged -= send_model.drains < file->charged ? send_model.drains : file->charged;
    int32_t answer = mood(message);
    bool cut = answer > 0 && send_model.cuts && !message->segment;
    uint32_t step = message->segment ? message->segment : length ? length : 1;
    for (uint32_t at = 0; at < length || !at; at += step) {
        uint32_t each = length - at < step ? length - at : step;
        check_one(message, bytes + at, each, answer < 0 ? ITEM_WAITS : cut ? ITEM_CUT : ITEM_SENT);
        send_model.accepted += answer >= 0 && !cut;
        send_model.bytes += answer >= 0 && !cut ? each : 0;
    }
    return cut ? answer - 1 : answer;
}

/* ---- results ---- */

static void check_results(struct job *job)
{
    const struct udpring_send_job *face = &job->face;
    uint32_t failed = 0;
    for (uint32_t i = 0; i < face->count; i++) {
        const struct item *item = &send_model.item[job->first + i];
        int32_t result = face->results[i];
        failed += result != 0;
        CLAIM(result <= 0, "datagram %u: %d", job->first + i, result);
        if (item->length < LENGTH_OF_ID) {
            send_model.short_reported += !result;
            continue;
        }
        CLAIM(result || item->state == ITEM_SENT, "datagram %u was not sent, and its result is 0", job->first + i);
        CLAIM(!result || item->state != ITEM_SENT || job->closed, "datagram %u was sent, and its result is %d", job->first + i, result);
        CLAIM(item->state != ITEM_CUT || result == -EIO || job->closed, "datagram %u was cut, and its result is %d", job->first + i, result);
    }
    CLAIM(face->failed == failed || job->closed, "%u failed, not %u", failed, face->failed);
}

void jobs_check(void)
{
    uint64_t waiting = 0;
    for (uint32_t i = 0; i < JOBS; i++) {
        struct job *job = &send_model.job[i];
        if (!job->live)
            continue;
        CLAIM(job->face.ended <= job->face.count && job->face.failed <= job->face.ended, "%u of %u ended, %u failed", job->face.ended,
              job->face.count, job->face.failed);
        waiting += job->face.count - job->face.ended;
        if (job->face.ended < job->face.count)
            continue;
        check_results(job);
        free_memory(job);
        send_model.ended++;
    }
    if (!send_model.send->tx)
        return;
    CLAIM(udpring_send_finished(send_model.send) == send_model.ended, "%lu jobs finished, not %lu",
          (unsigned long)udpring_send_finished(send_model.send), (unsigned long)send_model.ended);
    CLAIM(udpring_send_pending(send_model.send) == waiting, "%lu pending, not %lu", (unsigned long)udpring_send_pending(send_model.send),
          (unsigned long)waiting);
    if (waiting)
        return;
    struct udpring_tx_stats stats;
    udpring_send_stats(send_model.send, &stats);
    CLAIM(stats.packets == send_model.accepted && stats.bytes == send_model.bytes, "%lu datagrams and %lu bytes counted, not %lu and %lu",
          (unsigned long)stats.packets, (unsigned long)stats.bytes, (unsigned long)send_model.accepted, (unsigned long)send_model.bytes);
    CLAIM(send_model.short_sent == send_model.short_reported, "%lu short datagrams sent, %lu reported", (unsigned long)send_model.short_sent,
          (unsigned long)send_model.short_reported);
    CLAIM(send_model.send->free_count == send_model.send->pieces && udp_tx_idle(send_model.send->tx), "a slot is lost");
}

void jobs_send_one(struct input *input)
{
    uint8_t choice = input_u8(input), to = choice & 64 ? PEER : choose_destination(input_u8(input), 0);
    struct job *job = &send_model.job[JOBS];
    if (send_model.items + 1 >= ITEMS)
        return;
    uint32_t number = ++send_model.items, length = choose_length(choice, 0);
    struct item *item = &send_model.item[number];
    uint8_t bytes[1 + sizeof(struct udpring_address)], *data = __real_malloc(length ? length : 1);
    bool connected = to == PEER && kernel_file(send_model.fd) && kernel_file(send_model.fd)->peer.family;
    CLAIM(data, "no memory");
    jobs_fill(number, data, length);
    memcpy(bytes + 1, &send_model.destination[to], sizeof(struct udpring_address));   /* unaligned */
    *job = (struct job){.live = true, .first = number, .face = {.count = 1}};
    *item = (struct item){.length = length, .job = JOBS, .destination = to};
    uint64_t accepted = send_model.accepted;
    int code = udpring_send_one(send_model.send, data, length, connected ? NULL : bytes + 1);
    free(data);
    job->live = false;
    CLAIM((code == 0) == (send_model.accepted != accepted), "a datagram ends with %d", code);
    CLAIM(item->state != ITEM_CUT || code == -EIO, "a datagram was cut, and its result is %d", code);
    if (length < LENGTH_OF_ID)
        send_model.short_reported += !code;
}

void jobs_forget(void)
{
    send_model.kept = false;
    for (uint32_t i = 0; i < JOBS; i++)
        if (send_model.job[i].live)
            free_memory(&send_model.job[i]);
}
