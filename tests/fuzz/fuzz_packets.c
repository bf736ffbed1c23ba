/* The queues between a program and the workers (tunnel/packets/). The harness is both sides, one step at a time.
 *
 * Oracles: packets of a flow leave one queue, in order, with their bytes, and none is lost or comes twice. A queue refuses a packet
 * only where it is full. Columns that lie outside of the data are refused with the first bad packet, and nothing is taken.
 * A side that waits is woken: its descriptor is readable when there is something for it. */
#include "input.h"
#include "tunnel/packets/ports.h"

#include <poll.h>

enum {
    PORTS_MAX = 3,
    FLOWS = 16,
    HEAD = 24,                  /* of IPv4, with ports; shorter packets have no flow, and go to the first queue as flow 0 */
    COUNT_MAX = 64,
    DATA_MAX = 5 << 20,
    WAITING_MAX = UDPRING_PACKETS_BYTES_MIN / PACKET_RECORD,
    LARGEST = PACKET_RECORD + PACKET_MAX + 1,
};

/* What was put and not yet taken, in order. Owner: the harness, static. */
struct line {
    uint32_t length[WAITING_MAX * 2], first, last;
};

static struct line lines[FLOWS + PORTS_MAX];   /* of flows to the workers, and of workers to the program */
static int port_of[FLOWS];
static uint8_t data[DATA_MAX], packet[PACKET_MAX + PACKET_RECORD];
static bool worker_sleeps[PORTS_MAX], program_sleeps, program_waits;

/* The bytes of a packet follow from its flow, its number in the flow and its length. */
static void fill(uint8_t *bytes, uint32_t flow, uint32_t number, uint32_t length)
{
    if (!length)
        return;
    memset(bytes, (int)(number * 7 + flow), length);
    for (uint32_t i = 0; i < length; i += 1 + i / 8)
        bytes[i] = (uint8_t)(number + i * 13);
    if (length < HEAD) {
        bytes[0] = 0;
        return;
    }
    memset(bytes, 0, HEAD);
    bytes[0] = 0x45;
    bytes[9] = flow & 1 ? 6 : 17;
    bytes[15] = (uint8_t)flow;
    bytes[19] = (uint8_t)(flow * 3);
    bytes[23] = (uint8_t)flow;
}

static void enter(struct line *line, uint32_t length)
{
    line->length[line->last++ % UR_ARRAY_LENGTH(line->length)] = length;
    CLAIM(line->last - line->first <= UR_ARRAY_LENGTH(line->length), "%u packets wait", line->last - line->first);
}

static void leave(struct line *line, uint32_t flow, const uint8_t *bytes, uint32_t length)
{
    CLAIM(line->first != line->last, "a packet of flow %u that nobody put", flow);
    uint32_t number = line->first++, expected = line->length[number % UR_ARRAY_LENGTH(line->length)];
    CLAIM(length == expected, "%u bytes, not %u", length, expected);
    fill(packet, flow, number, length);
    CLAIM(memcmp(bytes, packet, length) == 0, "other bytes in packet %u of flow %u", number, flow);
}

static bool readable(int fd)
{
    struct pollfd poller = {.fd = fd, .events = POLLIN};
    return poll(&poller, 1, 0) == 1;
}

static bool has_published(const struct packet_queue *queue)
{
    return queue->head != queue->read;
}

static void check_queues(struct packet_ports *ports)
{
    bool inward = false;
    for (uint32_t i = 0; i < ports->count; i++) {
        const struct packet_queue *queues[] = {ports->port[i].outward, ports->port[i].inward};
        for (uint32_t k = 0; k < UR_ARRAY_LENGTH(queues); k++)
            CLAIM(queues[k]->write - queues[k]->tail <= queues[k]->bytes, "%lu bytes in one queue", queues[k]->write - queues[k]->tail);
        CLAIM(!worker_sleeps[i] || !has_published(ports->port[i].outward) || readable(ports->port[i].sent.fd),
              "worker %u sleeps before its packets", i);
        inward |= has_published(ports->port[i].inward);
    }
    CLAIM(!program_sleeps || !inward || readable(ports->received.fd), "the program sleeps before its packets");
}

/* ---- out ---- */

/* A batch whose columns describe it in one of several ways. `bad`: the number of a packet outside of the data, or the count. */
struct batch {
    uint32_t offsets[COUNT_MAX], lengths[COUNT_MAX], flows[COUNT_MAX], bad;
    struct udpring_packets_out out;
};

/* Some are as long as the room of this queue, or nearly. */
static uint32_t some_length(struct input *input, const struct packet_queue *queue)
{
    uint8_t choice = input_u8(input);
    if (choice == 254) {
        uint64_t room = queue->bytes - (queue->write - queue->tail) + 16 - input_u8(input) % 64;
        return room > PACKET_MAX ? PACKET_MAX : (uint32_t)room;
    }
    return choice < 64 ? choice : choice < 128 ? 1200u + choice : choice < 250 ? input_u16(input) : PACKET_MAX;
}

static void describe(struct input *input, const struct packet_queue *queue, struct batch *batch)
{
    struct udpring_packets_out *out = &batch->out;
    uint8_t shape = input_u8(input);
    uint32_t at = 0, numbers[FLOWS];
    *out = (struct udpring_packets_out){.data = data, .count = input_u8(input) % (COUNT_MAX + 1)};
    batch->bad = out->count;
    for (uint32_t i = 0; i < FLOWS; i++)
        numbers[i] = lines[i].last;
    uint32_t length = some_length(input, queue);
    for (uint32_t i = 0; i < out->count; i++) {
        length = shape & 1 ? some_length(input, queue) : length;
        if (!(shape & 1) && i + 1 == out->count && shape & 8)
            length /= 2;   /* the last may be shorter */
        uint32_t flow = length < HEAD ? 0 : input_u8(input) % FLOWS;
        batch->lengths[i] = length;
        batch->offsets[i] = at;
        batch->flows[i] = flow;
        CLAIM(at + length <= DATA_MAX, "the harness's own memory");
        fill(data + at, flow, numbers[flow]++, length);
        at += length + (shape & 2 ? shape >> 4 : 0);
    }
    out->bytes = at;
    out->length = out->count ? batch->lengths[0] : 0;
    out->lengths = shape & 1 ? batch->lengths : NULL;
    out->offsets = shape & 2 ? batch->offsets : NULL;
    if (!(shape & 1) && out->count > 1 && shape & 2)
        out->lengths = batch->lengths;   /* the end of the data shows where a shorter last one ends */
    if (shape & 4 && out->count && (out->lengths || out->offsets)) {
        batch->bad = input_u8(input) % out->count;
        if (out->offsets)
            batch->offsets[batch->bad] = at - batch->lengths[batch->bad] + 1 + input_u8(input);
        else
            batch->lengths[batch->bad] = PACKET_MAX + 1 + input_u16(input);
    }
}

static void check_refused(const struct packet_ports *ports, const struct batch *batch)
{
    const struct udpring_packets_out *out = &batch->out;
    uint64_t fullest = 0;
    for (uint32_t i = 0; i < ports->count; i++) {
        const struct packet_queue *queue = ports->port[i].outward;
        uint64_t used = queue->write - queue->tail;
        fullest = used > fullest ? used : fullest;
    }
    /* The record, and what may be left unused before the end of the memory. */
    CLAIM(out->taken == out->count || fullest + 2 * packet_record_bytes(batch->lengths[out->taken]) > UDPRING_PACKETS_BYTES_MIN,
          "refused with %lu bytes in use", fullest);
}

static void send(struct input *input, struct packet_ports *ports)
{
    static struct batch batch;
    describe(input, ports->port[0].outward, &batch);
    bool wait = input_u8(input) & 1;
    uint64_t before = ports->port[0].outward->write;
    if (wait) {   /* the program has woken, and is no longer waiting */
        packet_wake_clear(&(struct packet_wake){.fd = ports->room_fd});
        program_waits = false;
    }
    int result = packet_ports_send(ports, &batch.out, wait);
    if (batch.bad != batch.out.count) {
        CLAIM(result == -EINVAL && batch.out.taken == batch.bad, "result %d, packet %u", result, batch.out.taken);
        CLAIM(ports->port[0].outward->write == before, "some of a bad batch was taken");
        return;
    }
    CLAIM(result == 0 && batch.out.taken <= batch.out.count, "result %d", result);
    for (uint32_t i = 0; i < batch.out.taken; i++)
        enter(&lines[batch.flows[i]], batch.lengths[i]);
    check_refused(ports, &batch);
    program_waits |= wait && batch.out.taken < batch.out.count;
}

static void work(struct input *input, struct packet_ports *ports, uint32_t number, uint32_t most)
{
    struct packet_port *port = &ports->port[number];
    bool scribble = input_u8(input) & 1;
    packet_wake_clear(&port->sent);
    worker_sleeps[number] = false;
    for (uint32_t length; most--;) {
        uint8_t *bytes = packet_port_take(port, &length);
        if (!bytes) {
            worker_sleeps[number] = true;
            break;
        }
        CLAIM(length <= PACKET_MAX, "%u bytes", length);
        uint32_t flow = length < HEAD ? 0 : bytes[15];
        CLAIM(flow < FLOWS, "flow %u", flow);
        leave(&lines[flow], flow, bytes, length);
        if (length >= HEAD) {
            CLAIM(port_of[flow] < 0 || port_of[flow] == (int)number, "flow %u changed its queue", flow);
            port_of[flow] = (int)number;
        } else {
            CLAIM(number == 0, "a packet without a flow in queue %u", number);
        }
        if (scribble)   /* it is padded and encrypted in place */
            memset(bytes, 0xa5, packet_record_bytes(length) - PACKET_RECORD);
    }
    packet_port_release(port);
}

/* ---- in ---- */

static void give(struct input *input, struct packet_ports *ports, uint32_t number)
{
    struct packet_queue *queue = ports->port[number].inward;
    struct line *line = &lines[FLOWS + number];
    uint32_t length = some_length(input, queue), count = input_u8(input) % 32;
    while (count--) {
        fill(packet, number, line->last, length);
        uint8_t *bytes = exactly(packet, length);
        uint64_t used = queue->write - queue->tail;
        int result = packet_port_give(&ports->port[number], bytes, length, number);
        free(bytes);
        if (result == 0) {
            enter(line, length);
            continue;
        }
        CLAIM(result == -ENOBUFS && used + 2 * packet_record_bytes(length) > queue->bytes, "%d with %lu bytes in use", result, used);
    }
    if (input_u8(input) & 1)
        packet_port_publish(&ports->port[number]);
}

static uint32_t receive(struct packet_ports *ports, uint32_t max, bool wait)
{
    struct udpring_packets *batch;
    packet_wake_clear(&ports->received);
    int result = packet_ports_receive(ports, max, wait, &batch);
    CLAIM(result == 0, "result %d", result);
    program_sleeps = wait && !batch;
    if (!batch)
        return 0;
    uint32_t count = batch->count;
    CLAIM(count && count <= max, "%u packets of %u", count, max);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t from = batch->peers[i];
        CLAIM(from < ports->count, "a packet of worker %u", from);
        CLAIM((uint64_t)batch->offsets[i] + batch->lengths[i] <= batch->bytes, "packet %u ends behind the data", i);
        leave(&lines[FLOWS + from], from, batch->data + batch->offsets[i], batch->lengths[i]);
    }
    udpring_packets_free(batch, batch->data);
    return count;
}

static void drain(struct packet_ports *ports)
{
    static const uint8_t zero;
    struct input none = {.bytes = &zero};
    for (uint32_t i = 0; i < ports->count; i++) {
        packet_port_publish(&ports->port[i]);
        check_queues(ports);
        work(&none, ports, i, UINT32_MAX);
    }
    CLAIM(!program_waits || readable(ports->room_fd), "the program waits for room in empty queues");
    while (receive(ports, 1000, false))
        ;
    for (uint32_t i = 0; i < UR_ARRAY_LENGTH(lines); i++)
        CLAIM(lines[i].first == lines[i].last, "%u packets of line %u are gone", lines[i].last - lines[i].first, i);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {.bytes = bytes, .length = length};
    struct udpring_reason why;
    int code;
    struct packet_ports *ports = packet_ports_open(1 + input_u8(&input) % PORTS_MAX, UDPRING_PACKETS_BYTES_MIN,
                                                   UDPRING_PACKETS_BYTES_MIN, &code, &why);
    CLAIM(ports, "no ports: %d", code);
    for (uint32_t i = 0; i < UR_ARRAY_LENGTH(lines); i++)
        lines[i].first = lines[i].last = 0;
    memset(port_of, -1, sizeof(port_of));
    memset(worker_sleeps, 0, sizeof(worker_sleeps));
    program_sleeps = program_waits = false;
    while (input_left(&input, 1)) {
        uint8_t choice = input_u8(&input);
        uint32_t number = (choice >> 3) % ports->count;
        switch (choice & 7) {
        case 0: case 1: case 2: send(&input, ports); break;
        case 3: work(&input, ports, number, 1 + (choice >> 4)); break;
        case 4: work(&input, ports, number, UINT32_MAX); break;
        case 5: case 6: give(&input, ports, number); break;
        default: receive(ports, 1 + input_u8(&input), choice & 0x40); break;
        }
        check_queues(ports);
    }
    drain(ports);
    packet_ports_close(ports);
    return 0;
}
