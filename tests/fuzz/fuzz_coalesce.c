/* Coalescing of up to 20 flows, more than are built at once, so the oldest is evicted. The model segments the output, which
 * must
 * equal the input: unchanged, in order per flow, nothing lost. */
#include <netinet/in.h>

#include "input.h"
#include "model_delivery.h"
#include "tunnel/tun/coalesce.h"

enum { FLOWS = 20, OFFLOADS_ALL = 0x7f, OFFLOADS_NO_UDP = 0x1f };

static struct delivery delivery;
static uint8_t *kept[DELIVERY_MAX];
static uint32_t kept_count;
static bool refusing;

int __wrap_tun_write(const struct tun *tun, struct vnet_header *vnet, struct iovec *parts, int count);

int __wrap_tun_write(const struct tun *tun, struct vnet_header *vnet, struct iovec *parts, int count)
{
    CLAIM(vnet->gso_type == VNET_GSO_NONE || (tun->vnet && tun->offloads), "a super-packet for a device that takes none");
    CLAIM(vnet->gso_type != VNET_GSO_UDP_L4 || tun->offloads & TUN_OFFLOAD_UDP, "a UDP super-packet");
    delivery_tun_write(&delivery, vnet, parts + 1, count - 1);
    return refusing ? -EIO : 0;
}

static void flush(struct coalescer *coalescer)
{
    coalesce_flush(coalescer);
    CLAIM(coalescer->used == 0 && !delivery.missing, "%u packets are missing", delivery.missing);
    delivery_clear(&delivery);
    while (kept_count)
        free(kept[--kept_count]);
}

static void open_flows(struct input *input, struct model_flow *flow)
{
    for (uint32_t i = 0; i < FLOWS; i++) {
        uint32_t kind = i < 6 ? input_u8(input) : i * 37;
        flow[i] = (struct model_flow){
            .v6 = kind & 1, .tcp = kind & 2, .net = 10, .source = (uint8_t)i, .ports = i & 3, .destination = 2,
            .sequence = kind & 4 ? 0xffffff00u : kind * 1000, .options = kind & 8 ? 12 : 0, .dont_fragment = kind & 16,
            .identification = (uint16_t)(kind & 32 ? 65533 : kind)};
    }
}

static uint32_t payload_bytes(struct input *input, uint8_t kind, uint32_t segment)
{
    switch (kind & 7) {
    case 5: return segment / 2;
    case 6: return segment + 1;
    case 7: return input_u8(input);
    default: return segment;
    }
}

/* One byte of the header, except version and length, which the tunnel checks earlier. */
static void change_byte(struct input *input, uint8_t *packet, uint32_t length, bool v6)
{
    uint32_t at = input_u8(input) % (length < 80 ? length : 80);
    uint8_t value = input_u8(input);
    if (at && at != (v6 ? 4u : 2u) && at != (v6 ? 5u : 3u))
        packet[at] = value;
    else if (!at && !v6)
        packet[0] = (uint8_t)(0x40 | (value & 15));
}

static void one_packet(struct input *input, struct coalescer *coalescer, struct model_flow *flows)
{
    static const uint32_t segments[] = {536, 100, 1400, 1, 1400, 1400, 200, 8};
    static uint8_t made[4096];
    uint8_t which = input_u8(input), kind = input_u8(input), how = input_u8(input);
    struct model_flow *flow = &flows[which & 7 ? (which & 7) % 6 : (which >> 3) % FLOWS];
    uint32_t payload = payload_bytes(input, kind, segments[flow->source % UR_ARRAY_LENGTH(segments)]);
    flow->flags = (kind & 0x18) == 0x18 ? 8 : 0;
    if ((kind & 0xe0) == 0xe0)
        flow->identification += kind & 1 ? 1 : 0xffff;
    if ((kind & 0x60) == 0x60 && which & 0x80)
        flow->tos = how & 3;
    uint32_t length = model_packet(flow, payload, which, made);
    if (how >= 224) {
        change_byte(input, made, length, flow->v6);
        uint32_t ip = flow->v6 ? 40 : 20;
        if (how < 244 && ((flow->v6 && made[6] == (flow->tcp ? 6 : 17)) || (!flow->v6 && made[0] == 0x45 && made[9] == (flow->tcp ? 6 : 17))))
            model_fill_checksums(made, length, ip, flow->tcp ? IPPROTO_TCP : IPPROTO_UDP);
    }
    uint8_t *packet = kept[kept_count++] = exactly(made, length), ignored[MODEL_FLOW_BYTES];
    delivery_in(&delivery, packet, length);
    coalesce_packet(coalescer, packet, length);
    CLAIM(coalescer->used <= COALESCE_FLOWS, "%u flows", coalescer->used);
    if (!model_flow_of(made, length, ignored))
        CLAIM(!delivery.missing, "what may belong to any flow passed %u packets", delivery.missing);
    if ((which & 0xf8) == 0xf8)
        flush(coalescer);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {.bytes = bytes, .length = length};
    struct model_flow flows[FLOWS];
    uint8_t options = input_u8(&input);
    struct tun tun = {.fd = -1, .query_fd = -1, .vnet = (options & 6) != 6, .offloads = options & 1 ? OFFLOADS_ALL : OFFLOADS_NO_UDP};
    if ((options & 24) == 24)
        tun.offloads = 0;
    refusing = options & 32;
    struct coalescer *coalescer = calloc(1, sizeof(*coalescer));
    CLAIM(coalescer, "no memory");
    coalescer->tun = &tun;
    open_flows(&input, flows);
    while (input_left(&input, 3)) {
        if (kept_count == DELIVERY_MAX)
            flush(coalescer);
        one_packet(&input, coalescer, flows);
    }
    flush(coalescer);
    free(coalescer);
    return 0;
}
