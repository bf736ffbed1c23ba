/* Segmentation of super-packets from a TUN device, against the model. Header and packet are arbitrary. */
#include "input.h"
#include "model_packets.h"
#include "tunnel/tun/segment.h"

/* Owner: the harness. The core's packets, or the expected ones. */
struct segments {
    uint8_t *bytes;
    size_t used, room;
    uint32_t count, compared;
};

static void compare(void *context, const uint8_t *packet, uint32_t length)
{
    struct segments *made = context;
    uint32_t bytes;
    CLAIM(made->compared < made->count, "the core made %u segments, the model more", made->count);
    memcpy(&bytes, made->bytes + made->used, sizeof(bytes));
    made->used += sizeof(bytes);
    CLAIM(bytes == length, "segment %u of %u bytes, not %u", made->compared, bytes, length);
    for (uint32_t i = 0; i < length; i++)
        CLAIM(made->bytes[made->used + i] == packet[i], "segment %u differs at byte %u", made->compared, i);
    made->used += length;
    made->compared++;
}

static void append(struct segments *made, const uint8_t *packet, uint32_t length)
{
    if (made->used + sizeof(length) + length > made->room) {
        made->room = 2 * (made->used + sizeof(length) + length);
        made->bytes = realloc(made->bytes, made->room);
        CLAIM(made->bytes, "no memory");
    }
    memcpy(made->bytes + made->used, &length, sizeof(length));
    memcpy(made->bytes + made->used + sizeof(length), packet, length);
    made->used += sizeof(length) + length;
    made->count++;
}

/* A header that describes the packet, except for changes by the input; or any header. */
static struct vnet_header read_header(struct input *input, const uint8_t *packet, uint32_t length)
{
    static const uint8_t types[] = {VNET_GSO_NONE, VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_GSO_UDP_L4, 0x81, 0x84, 3, 0x80};
    struct vnet_header header;
    uint8_t choice = input_u8(input);
    input_copy(input, &header, sizeof(header));
    if (choice & 1)
        header.gso_type = types[header.gso_type % UR_ARRAY_LENGTH(types)];
    if (choice & 2)
        header.flags = VNET_NEEDS_CSUM;
    if (choice & 4 && length)
        header.csum_start = packet[0] >> 4 == 6 ? 40 : (uint16_t)((packet[0] & 15) * 4);
    if (choice & 8)
        header.csum_offset = header.gso_type == VNET_GSO_UDP_L4 ? 6 : 16;
    if (choice & 16)
        header.gso_size %= 64;
    return header;
}

/* An arbitrary packet, or a long one with an arbitrary beginning. */
static uint8_t *read_packet(struct input *input, uint32_t *length)
{
    uint32_t extra = (input_u8(input) & 7) == 1 ? input_u16(input) % 8192 : 0;
    size_t head = input->length - input->at > 11 ? input->length - input->at - 11 : 0;
    *length = (uint32_t)(head < 2048 ? head : 2048) + extra;
    uint8_t *packet = exactly("", 0);
    packet = realloc(packet, *length ? *length : 1);
    CLAIM(packet, "no memory");
    for (uint32_t i = 0; i < *length; i++)
        packet[i] = i < *length - extra ? input_u8(input) : (uint8_t)(i * 31);
    return packet;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {.bytes = bytes, .length = length};
    struct segments made = {0};
    struct segmenter segmenter;
    uint32_t total, one;
    uint8_t *packet = read_packet(&input, &total), *segment;
    if (!total) {
        free(packet);
        return 0;
    }
    struct vnet_header header = read_header(&input, packet, total);
    uint8_t *untouched = exactly(packet, total);
    int result = segment_open(&segmenter, &header, packet, total);
    CLAIM(result == 0 || result == -EINVAL, "%d", result);
    while (result == 0 && segment_next(&segmenter, &segment, &one)) {
        CLAIM(one && segment >= packet && segment + one <= packet + total, "a segment outside of the packet");
        append(&made, segment, one);
        memset(segment, 0xdd, one);   /* sealed: its bytes are no longer needed */
    }
    made.used = 0;
    bool valid = model_segment(&header, untouched, total, compare, &made);
    CLAIM(valid == (result == 0), "the core says %d, the model %d", result, valid);
    CLAIM(made.compared == (valid ? made.count : 0), "the core made %u segments, the model %u", made.count, made.compared);
    free(made.bytes);
    free(untouched);
    free(packet);
    return 0;
}
