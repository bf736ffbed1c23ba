/* A plane whose system calls and allocations fail: the n-th from some moment on, once or repeatedly, with any error. Commands
 * may
 * name things that do not exist. The workers are real and run on the model's kernel.
 *
 * Oracles: a failed open gives a reason and leaves nothing behind. A command succeeds or returns a negative errno. Afterwards
 * the
 * plane works in both directions, or has posted that it does not. At the end no key, descriptor or memory is left. */
#include <netinet/in.h>

#include "model_commands.h"
#include "model_aead.h"
#include "model_kernel.h"
#include "model_mappings.h"
#include "model_netlink.h"
#include "model_packets.h"
#include "model_threads.h"
#include "model_uring.h"
#include "../native/abi.h"
#include "tunnel/worker/state.h"

enum { PEERS = 3, NOBODY = 0x7ffffff };

static struct udpring_plane *plane;
static uint32_t peers[PEERS], indices[PEERS];
static uint64_t sent, written, secrets;
static bool ended;      /* the plane has posted that it cannot continue */

void *__real_realloc(void *memory, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);

void *__wrap_realloc(void *memory, size_t bytes)
{
    return kernel_fault(true) ? NULL : __real_realloc(memory, bytes);
}

static void see_read(uint32_t queue, const struct kernel_packet *packet)
{
}

static int see_write(uint32_t queue, const struct vnet_header *vnet, const struct iovec *parts, int count)
{
    written++;
    return 0;
}

static int32_t see_send(const struct kernel_send *send)
{
    sent++;
    return (int32_t)send->length;
}

static void ran(int32_t result)
{
    CLAIM(result >= 0 || result > -4096, "a command returns %d", result);
}

static struct udpring_address address_of(uint8_t choice)
{
    return (struct udpring_address){.family = choice & 1 ? AF_INET6 : AF_INET, .port = 1000, .ip = {192, 0, 2, choice}};
}

static int32_t set_prefix(uint32_t peer, uint8_t net)
{
    struct udpring_prefix prefix = {.family = AF_INET, .cidr = 8, .peer = peer, .ip = {net}};
    uint32_t done;
    return udpring_plane_prefixes(plane, &prefix, 1, &done);
}

static int32_t new_key(uint32_t peer, uint32_t *index, bool initiator)
{
    uint8_t keys[64] = {0};
    uint64_t sending = ++secrets, receiving = ++secrets;
    int32_t result = udpring_plane_indices(plane, peer, index, 1);
    if (result < 0)
        return result;
    memcpy(keys, &sending, sizeof(sending));
    memcpy(keys + 32, &receiving, sizeof(receiving));
    result = udpring_plane_keypair(plane, peer, 0, keys, *index, 7, initiator, threads_now_ns);
    if (result < 0)
        (void)udpring_plane_index_release(plane, *index);
    return result;
}

static uint32_t inner(uint8_t net, uint8_t *out)
{
    struct model_flow flow = {.net = net, .source = 1, .destination = 9};
    return model_packet(&flow, 60, 0, out);
}

static void from_device(uint8_t net, uint32_t copies)
{
    uint8_t bytes[MODEL_PACKET_MAX > 2048 ? 2048 : MODEL_PACKET_MAX];
    struct kernel_packet packet = {.length = inner(net ^ 1, bytes)};   /* to an address of this net */
    bool held = kernel.fault_held;
    kernel.fault_held = true;
    while (copies--) {
        packet.bytes = exactly(bytes, packet.length);
        kernel_put(kernel_nth(KERNEL_TUN, 0, 0), &packet);
    }
    kernel.fault_held = held;
}

/* A data message for the newest key, to each socket. Another harness covers the kernel's choice of socket. */
static void from_network(uint8_t net, uint32_t index, uint64_t receiving, uint64_t counter, int family)
{
    uint8_t plain[2048], message[2048 + WG_DATA_MIN];
    struct kernel_file *socket;
    bool held = kernel.fault_held;
    kernel.fault_held = true;
    uint32_t length = inner(net, plain), padded = (length + 15) & ~15u;
    memset(plain + length, 0, padded - length);
    for (uint32_t i = 0; (socket = kernel_nth(KERNEL_UDP, family, i)); i++, counter++) {
        struct kernel_packet packet = {.length = padded + WG_DATA_MIN, .source = address_of(family == AF_INET6), .interface_index = 1};
        uint32_t type = htole32(WG_TYPE_DATA), receiver = htole32(index);
        uint64_t wire = htole64(counter);
        packet.local = (struct udpring_address){.family = packet.source.family, .ip = {10, 0, 0, 1}};
        memcpy(message, &type, 4);
        memcpy(message + 4, &receiver, 4);
        memcpy(message + 8, &wire, 8);
        model_seal(receiving, counter, plain, padded, message + WG_DATA_HEADER);
        packet.bytes = exactly(message, packet.length);
        kernel_put(socket, &packet);
    }
    kernel.fault_held = held;
}

static void see_events(void)
{
    struct udpring_event events[8];
    uint32_t count;
    do {
        count = udpring_plane_events(plane, events, UR_ARRAY_LENGTH(events));
        for (uint32_t i = 0; i < count; i++)
            ended |= events[i].kind == UDPRING_EVENT_FATAL || events[i].kind == UDPRING_EVENT_TUN_GONE;
    } while (count == UR_ARRAY_LENGTH(events));
}

/* Commands that name nothing. Each fails and changes nothing. */
static void wrong_commands(void)
{
    static const uint8_t keys[64] = {1};
    struct udpring_address strange = {.family = 99}, to = address_of(0);
    struct udpring_peer_state state;
    uint32_t index, release = 0x12345;
    CLAIM(udpring_plane_peer_remove(plane, NOBODY) == -ENOENT, "nobody is removed");
    CLAIM(udpring_plane_endpoint(plane, NOBODY, &to) == -ENOENT, "nobody has an endpoint");
    CLAIM(udpring_plane_endpoint(plane, NOBODY, &strange) == -EAFNOSUPPORT, "an address of no family");
    CLAIM(udpring_plane_prefixes_clear(plane, NOBODY) == -ENOENT, "nobody has prefixes");
    CLAIM(set_prefix(NOBODY, 10) == -ENOENT, "nobody gets prefixes");
    CLAIM(udpring_plane_indices(plane, NOBODY, &index, 1) == -ENOENT, "nobody gets an index");
    CLAIM(udpring_plane_index_release(plane, release) == -ENOENT, "no index is released");
    CLAIM(udpring_plane_keypair(plane, NOBODY, 0, keys, release, 1, 1, 0) == -ENOENT, "nobody has keys");
    CLAIM(udpring_plane_keypair(plane, NOBODY, 77, keys, release, 1, 1, 0) == -EINVAL, "a cipher of no number");
    CLAIM(udpring_plane_send(plane, NOBODY, keys, 64, 0, NULL, NULL, 0, NULL) == -ENOENT, "a message to nobody");
    CLAIM(udpring_plane_send(plane, UDPRING_PEER_NONE, keys, UDPRING_MESSAGE_MAX + 1, 0, &to, NULL, 0, NULL) == -EMSGSIZE, "a long message");
    CLAIM(udpring_plane_test_counter(plane, NOBODY, 1) == -ENOENT && udpring_plane_test_blocks(plane, NOBODY, 1) == -ENOENT &&
              udpring_plane_test_age(plane, NOBODY, 1) == -ENOENT, "nobody has a counter");
    CLAIM(udpring_plane_peer_state(plane, NOBODY, 0, &state) == -ENOENT, "nobody has a state");
    udpring_plane_close(NULL);
}

/* The index of a key is reserved until the key is removed. */
static void take_twice(uint32_t slot)
{
    static const uint8_t keys[64] = {1};
    int32_t made = new_key(peers[slot], &indices[slot], true);
    if (made < 0)
        return;
    CLAIM(udpring_plane_index_release(plane, indices[slot]) == -EBUSY, "an index that a key has is released");
    CLAIM(udpring_plane_keypair(plane, peers[slot], 0, keys, indices[slot], 7, 1, threads_now_ns) == -EEXIST, "an index with two keys");
}

static void look(void)
{
    CLAIM(!strcmp(udpring_plane_name(plane), "fuzz0") && udpring_plane_port(plane), "%s", udpring_plane_name(plane));
    CLAIM(kernel_file(udpring_plane_tun_fd(plane))->kind == KERNEL_TUN && kernel_file(udpring_plane_eventfd(plane))->kind == KERNEL_EVENT,
          "a descriptor of something else");
    CLAIM(strlen(udpring_plane_tier_reason(plane)) < UDPRING_REASON_BYTES && strlen(udpring_plane_sharing_reason(plane)) < UDPRING_REASON_BYTES &&
              strlen(udpring_plane_routes_reason(plane)) < UDPRING_REASON_BYTES, "a reason without end");
}

static void rebind(uint8_t choice)
{
    struct udpring_reason why = {""};
    uint16_t port = (uint16_t)(choice * 3);
    int32_t result = udpring_plane_bind(plane, &port, choice, &why);
    CLAIM(result >= 0 || *why.text, "a bind fails (%d) and does not say why", result);
}

/* All sockets have one mark: the new one, or after a failure the former one. */
static void mark(uint8_t fwmark)
{
    bool stays = kernel.fault_stays;
    int32_t result = udpring_plane_mark(plane, fwmark);
    ran(result);
    CLAIM(result < 0 || plane->fwmark == fwmark, "the mark is %u, not %u", plane->fwmark, fwmark);
    for (uint32_t i = 0; !stays && i < KERNEL_FDS; i++)
        if (kernel.file[i].kind == KERNEL_UDP)
            CLAIM(kernel.file[i].mark == plane->fwmark, "a socket has the mark %u, the plane %u", kernel.file[i].mark, plane->fwmark);
}

static void arm(struct input *input)
{
    static const int errors[] = {ENOMEM, ENOBUFS, EPERM, EINTR, EAGAIN, EMFILE, ENFILE, EINVAL, ENOSYS, EACCES, EBUSY, ENODEV,
                                 EOPNOTSUPP, ENOENT, ENXIO, EADDRINUSE};
    uint8_t after = input_u8(input), how = input_u8(input);
    kernel.fault.after = after;
    kernel.fault.error = errors[how & 15];
    kernel.fault.memory_only = how & 16;
    /* A signal comes now and then, not at each call. */
    kernel.fault_stays = (how & 96) == 96 && kernel.fault.error != EINTR;
}

static void step(struct input *input)
{
    uint8_t operation = input_u8(input), slot = (operation >> 5) % PEERS, net = (uint8_t)(10 + slot);
    struct udpring_address address = address_of(operation >> 6);
    struct udpring_plane_stats stats;
    switch (operation & 15) {
    case 0: arm(input); return;
    case 1: if (peers[slot] == NOBODY) ran(udpring_plane_peer_add(plane, &peers[slot])); break;
    case 2: ran(udpring_plane_peer_remove(plane, peers[slot])); peers[slot] = NOBODY; break;
    case 3: ran(udpring_plane_endpoint(plane, peers[slot], &address)); break;
    case 4: ran(set_prefix(peers[slot], net)); break;
    case 5: ran(new_key(peers[slot], &indices[slot], operation & 16)); break;
    case 6: rebind(input_u8(input)); break;
    case 7: mark(input_u8(input)); break;
    case 8: from_device(net, 1 + input_u8(input) % 64); break;
    case 9: from_network(net, indices[slot], secrets, input_u8(input), operation & 16 ? AF_INET6 : AF_INET); break;
    case 10: threads_pass_time(input_u8(input) * 12000000ull); break;
    case 11: wrong_commands(); take_twice(slot); look(); break;
    case 12: ran(udpring_plane_keepalive(plane, peers[slot])); break;
    case 13: ran(udpring_plane_stats(plane, &stats)); ran(udpring_plane_prefixes_clear(plane, peers[slot])); break;
    case 14: netlink_tell(input_u8(input)); break;
    default: threads_run(); see_events(); break;
    }
}

/* Nothing fails any more: a packet passes in each direction, or an event has said that none will. */
static void check_works(void)
{
    uint32_t peer, index;
    int family = kernel_nth(KERNEL_UDP, AF_INET, 0) ? AF_INET : AF_INET6;
    struct udpring_address address = address_of(family == AF_INET6);
    kernel.fault.after = kernel.fault_stays = 0;
    threads_pass_time(1000000000);
    see_events();
    CLAIM(udpring_plane_peer_add(plane, &peer) == 0, "a peer");
    CLAIM(udpring_plane_endpoint(plane, peer, &address) == 0, "an endpoint");
    CLAIM(set_prefix(peer, 20) == 0, "a prefix");
    int32_t result = new_key(peer, &index, true);
    CLAIM(result >= 0, "a key: %d", result);
    see_events();
    uint64_t left = sent, came = written;
    from_device(20, 1);
    from_network(20, index, secrets, 0, family);
    threads_pass_time(1000000000);
    see_events();
    CLAIM(ended || sent > left, "a packet does not leave");
    CLAIM(ended || written > came, "a packet does not come in");
    CLAIM(udpring_plane_peer_remove(plane, peer) == 0, "a peer is removed");
}

static void open_plane(struct input *input)
{
    static const uint8_t tiers[] = {UDPRING_TIER_MMSG, UDPRING_TIER_URING_MULTISHOT, UDPRING_TIER_URING_POOL, UDPRING_TIER_AUTO};
    static const uint8_t mac1_key[32] = {1}, cookie_key[32] = {2};
    uint8_t choice = input_u8(input);
    struct udpring_plane_options options = {
        .name = "fuzz0", .fds = {77}, .fd_count = (choice & 0xe0) == 0xe0, .query_fd = -1, .tier = tiers[choice & 3], .slots = 4, .mailbox = choice & 4 ? 8 : 64,
        .listen_port = choice & 8 ? 51820 : 0, .workers = choice & 16 ? 2 : 1};
    struct udpring_reason why = {""};
    int32_t code = 0;
    arm(input);
    threads_active = true;
    plane = udpring_plane_open(&options, &code, &why);
    CLAIM(plane || (code < 0 && *why.text), "it does not open (%d) and does not say why", code);
    CLAIM(!plane || code == 0, "it opens with %d", code);
    if (plane)
        ran(udpring_plane_identity(plane, mac1_key, cookie_key));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {.bytes = bytes, .length = length};
    kernel_reset();
    uring_reset();
    netlink_reset();
    model_aead_reset();
    kernel.active = kernel.has_uring = kernel.has_netlink = kernel.tells_space = kernel.fault_wide = memory_kept = true;
    kernel.map = memory_map;
    kernel.tunnel = ROUTE_TUNNEL;
    kernel.mtu = 1420;
    kernel.offloads = 0x7f;
    kernel.tun_read = see_read;
    kernel.tun_write = see_write;
    kernel.send = see_send;
    threads_now_ns = 1000000000000u;
    sent = written = secrets = 0;
    ended = false;
    for (uint32_t i = 0; i < PEERS; i++)
        peers[i] = NOBODY;
    open_plane(&input);
    if (plane) {
        while (input_left(&input, 1))
            step(&input);
        check_works();
        udpring_plane_close(plane);
    }
    kernel.fault.after = 0;
    CLAIM(!model_aead.keys, "%d keys are left", model_aead.keys);
    threads_reset();
    threads_active = false;
    kernel_reset();
    return 0;
}
