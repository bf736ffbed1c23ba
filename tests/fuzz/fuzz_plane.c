/* The whole plane as a state machine on the harness's own kernel: packets from the TUN device, datagrams and trains from the
 * network, every command, errors of sends and writes, full sockets, time. The workers are real (worker.c). The kernel's routes
 * are
 * part of the model, with answers, notices and faults of rtnetlink (model_netlink.c).
 *
 * Oracles: each nonce is used once and sent once (model_aead.c). A sent message decrypts to a packet that was read, in order,
 * for the
 * right peer (plane_out.c). A written packet came sealed, in order of its flow (plane_in.c). Each slot has one owner. A counter
 * accounts
 * for each packet and message. Packets leave as the routes say (plane_paths.c). At the end no key, staged byte or descriptor is
 * left. */
#include <netinet/in.h>

#include "model_commands.h"
#include "model_uring.h"
#include "model_mappings.h"
#include "model_netlink.h"
#include "plane_model.h"
#include "../native/abi.h"
#include "uring/ops.h"

struct model model;

static uint8_t scratch[MODEL_PACKET_MAX + 4096];
static struct model_flow flows[NETS * 4];
static struct mac_engine mac;
const uint8_t model_mac1_key[32] = {1}, model_cookie_key[32] = {2};

void model_mac(const uint8_t *key, size_t key_bytes, const uint8_t *bytes, size_t length, uint8_t out[16])
{
    size_t written;
    if (EVP_MAC_init(mac.context, key, key_bytes, NULL) && EVP_MAC_update(mac.context, bytes, length))
        EVP_MAC_final(mac.context, out, &written, 16);
}

uint8_t model_owner(const uint8_t *packet, uint32_t length, bool destination)
{
    uint8_t net = 0;
    const uint8_t *ip = length >= 20 && packet[0] >> 4 == 4 ? packet + (destination ? 16 : 12)
                        : length >= 40 && packet[0] >> 4 == 6 ? packet + (destination ? 24 : 8) : NULL;
    if (ip && ip[0] == OUTER_NET && ip[1] < PEERS)
        return model.outer[ip[1]];
    if (length >= 20 && packet[0] >> 4 == 4)
        net = packet[destination ? 16 : 12];
    else if (length >= 40 && packet[0] >> 4 == 6 && packet[destination ? 24 : 8] == 0xfd)
        net = packet[destination ? 25 : 9];
    return net >= FIRST_NET && net < FIRST_NET + NETS ? model.owner[net - FIRST_NET] : NOBODY;
}

struct session *model_session(uint32_t index, bool local)
{
    for (uint32_t i = model.sessions; i-- > 0;)
        if ((local ? model.session[i].local : model.session[i].remote) == index)
            return &model.session[i];
    return NULL;
}

/* ---- commands ---- */

static bool any_unread(void)
{
    for (uint32_t i = 0; i < KERNEL_FDS; i++)
        if (kernel.file[i].kind == KERNEL_UDP && kernel.file[i].count)
            return true;
    return false;
}

void model_read_all(void)
{
    threads_run();
    for (uint32_t tries = 0; tries < 100 && any_unread(); tries++)
        threads_pass_time(10000000);   /* a worker that is short of memory pauses */
}

static void set_net(uint8_t net, uint8_t slot, bool remove)
{
    uint8_t life = model.present[slot];
    uint32_t done;
    struct udpring_prefix prefixes[2] = {
        {.family = AF_INET, .cidr = 8, .peer = model.life[life].id, .remove = remove, .ip = {FIRST_NET + net}},
        {.family = AF_INET6, .cidr = 16, .peer = model.life[life].id, .remove = remove, .ip = {0xfd, FIRST_NET + net}},
    };
    model_read_all();
    if (!remove)
        model.owner[net] = life;
    else if (model.owner[net] == life)
        model.owner[net] = NOBODY;
    model.moves++;
    CLAIM(udpring_plane_prefixes(model.plane, prefixes, 2, &done) == 0 && done == 2, "%u prefixes set", done);
}

struct udpring_address model_address(uint8_t slot, uint8_t choice)
{
    /* The second byte names the peer, so no two peers share an address. */
    struct udpring_address address = {.family = choice & 1 ? AF_INET6 : AF_INET, .port = (uint16_t)(1000 + (choice >> 4)),
                                      .ip = {OUTER_NET, slot, 0, choice >> 1 & 3}};
    return address;
}

static void set_endpoint(uint8_t slot, uint8_t choice)
{
    struct life *life = &model.life[model.present[slot]];
    struct udpring_address address = model_address(slot, choice);
    if ((choice & 0xe) == 0xe)
        address.family = 0;
    life->reordered |= life->family && life->family != address.family;   /* the two sockets are independent */
    life->family = address.family;
    CLAIM(udpring_plane_endpoint(model.plane, life->id, &address) == 0, "an endpoint");
}

static void add_peer(uint8_t slot, uint8_t choice)
{
    struct life *life = &model.life[model.lives];
    *life = (struct life){.slot = slot};
    CLAIM(udpring_plane_peer_add(model.plane, &life->id) == 0, "a peer");
    model.present[slot] = (uint8_t)model.lives++;
    events_peer_added(model.present[slot]);
    set_net(slot, slot, false);
    if (choice & 1)
        set_endpoint(slot, choice & 0xf1);
}

static void replace_peer(uint8_t slot, uint8_t choice)
{
    if (model.lives == LIVES)
        return;
    uint8_t life = model.present[slot];
    model_read_all();
    for (uint32_t net = 0; net < NETS; net++)
        if (model.owner[net] == life)
            model.owner[net] = NOBODY;
    model.moves++;
    for (uint32_t net = 0; net < PEERS; net++)
        if (model.outer[net] == life)
            model.outer[net] = NOBODY;
    CLAIM(udpring_plane_peer_remove(model.plane, model.life[life].id) == 0, "a peer is removed");
    add_peer(slot, choice);
}

/* A turn of the control loop, with many messages behind the keypair. */
static void batch_with_keypair(uint8_t life, const struct session *session, int32_t cipher, const uint8_t *keys, bool initiator,
                               uint64_t birth_ns)
{
    static struct udpring_command commands[UDPRING_COMMANDS_MAX];
    uint32_t id = model.life[life].id, count = 0;
    commands[count] = (struct udpring_command){.kind = UDPRING_COMMAND_KEYPAIR, .peer = id, .cipher = cipher, .local_index = session->local,
                                               .remote_index = session->remote, .initiator = initiator, .birth_ns = birth_ns};
    memcpy(commands[count++].keys, keys, sizeof(commands[0].keys));
    commands[count++] = (struct udpring_command){.kind = UDPRING_COMMAND_KEEPALIVE, .peer = id};
    commands[count++] = (struct udpring_command){.kind = UDPRING_COMMAND_INDEX_RELEASE, .local_index = session->local};
    while (count < UDPRING_COMMANDS_MAX)
        commands[count++] = (struct udpring_command){.kind = UDPRING_COMMAND_SEND, .peer = id, .length = 1, .message = {1}};
    model.others += count;
    CLAIM(udpring_plane_commands(model.plane, commands, count) == 0, "a batch");
    CLAIM(commands[0].result >= 0, "a keypair: %d", commands[0].result);
    CLAIM(commands[0].result == 0 || commands[1].result == 1, "staged packets left, and a keepalive: %d", commands[1].result);
    CLAIM(commands[2].result == -EBUSY, "an index that a key has is released: %d", commands[2].result);
}

static void new_session(struct input *input, uint8_t slot)
{
    uint8_t choice = input_u8(input), age = input_u8(input), life = model.present[slot];
    struct session *session = &model.session[model.sessions];
    uint8_t keys[64] = {0};
    if (model.sessions == SESSIONS)
        return;
    CLAIM(udpring_plane_indices(model.plane, model.life[life].id, &session->local, 1) == 0, "an index");
    if ((choice & 0x1f) == 0x1f) {   /* the handshake was abandoned */
        CLAIM(udpring_plane_index_release(model.plane, session->local) == 0, "an index is released");
        return;
    }
    int32_t cipher = (choice & 6) == 6 ? UDPRING_CIPHER_AES_256_GCM : UDPRING_CIPHER_CHACHA20_POLY1305;
    session->send_secret = 2 * model.sessions + 1;
    session->receive_secret = 2 * model.sessions + 2;
    session->remote = 5000 + model.sessions++;
    session->type = cipher == UDPRING_CIPHER_AES_256_GCM ? WG_TYPE_DATA | WG_MARK_AES_256_GCM : WG_TYPE_DATA;
    session->life = life;
    session->counter = 0;
    memcpy(keys, &session->send_secret, sizeof(session->send_secret));
    memcpy(keys + 32, &session->receive_secret, sizeof(session->receive_secret));
    uint64_t birth_ns = threads_now_ns - (choice & 8 ? age * 1000000000ull : 0);
    if (choice & 16) {
        batch_with_keypair(life, session, cipher, keys, choice & 1, birth_ns);
        events_keys_change(life);
        return;
    }
    int result = udpring_plane_keypair(model.plane, model.life[life].id, cipher, keys, session->local, session->remote, choice & 1, birth_ns);
    CLAIM(result >= 0, "a keypair: %d", result);
    events_keys_change(life);
}

static void change_keys(struct input *input, uint8_t slot)
{
    uint32_t id = model.life[model.present[slot]].id;
    uint8_t what = input_u8(input);
    events_keys_change(model.present[slot]);
    switch (what & 7) {
    case 0: udpring_plane_keys_erase(model.plane, id); break;
    case 1: udpring_plane_keys_expire(model.plane, id); break;
    case 2: udpring_plane_staged_drop(model.plane, id); break;
    case 3: udpring_plane_source_clear(model.plane, id); break;
    case 4: udpring_plane_test_age(model.plane, id, (what >> 3) * 8000000000ull); break;
    case 5: udpring_plane_test_blocks(model.plane, id, GCM_REJECT_AFTER_BLOCKS - (what >> 3) * 90); break;
    default: {
        const struct peer *peer = plane_peer(model.plane, id);
        bool gcm = peer->current && peer->current->data_type != WG_TYPE_DATA;
        uint64_t next = (gcm ? GCM_REJECT_AFTER_MESSAGES : WG_REJECT_AFTER_MESSAGES) - (what >> 3);
        if (peer->current && peer->current->counter < next)
            udpring_plane_test_counter(model.plane, id, next);
    }
    }
}

static void send_something(struct input *input, uint8_t slot)
{
    uint8_t choice = input_u8(input), message[UDPRING_MESSAGE_MAX] = {1};
    struct udpring_address to = model_address(slot, choice), from = {.family = to.family, .ip = {10, 0, 0, 1}};
    model.others++;
    if (choice & 2)
        udpring_plane_keepalive(model.plane, model.life[model.present[slot]].id);
    else
        udpring_plane_send(model.plane, choice & 4 ? UDPRING_PEER_NONE : model.life[model.present[slot]].id, message,
                           input_u8(input) % (UDPRING_MESSAGE_MAX + 1u), choice, choice & 8 ? &to : NULL, choice & 8 ? &from : NULL, 1,
                           choice & 16 ? model_cookie_key : NULL);
}

static void look(struct input *input, uint8_t slot)
{
    static struct udpring_peer_state states[PEERS + 1];
    struct udpring_plane_stats stats;
    struct udpring_prefix prefixes[2 * (NETS + PEERS)];
    uint32_t next;
    uint8_t choice = input_u8(input);
    events_look(model.present[slot], choice & 1);
    CLAIM(udpring_plane_peer_states(model.plane, 0, states, PEERS + 1, &next) == PEERS && !next, "the states of all");
    CLAIM(udpring_plane_stats(model.plane, &stats) == 0 && stats.peers == PEERS, "%u peers", stats.peers);
    uint32_t owned = 0;
    for (uint32_t net = 0; net < NETS; net++)
        owned += 2 * (model.owner[net] == model.present[slot]);
    for (uint32_t net = 0; net < PEERS; net++)
        owned += 2 * (model.outer[net] == model.present[slot]);
    CLAIM(udpring_plane_prefixes_list(model.plane, model.life[model.present[slot]].id, prefixes, 2 * (NETS + PEERS)) == owned, "%u prefixes", owned);
}

/* ---- packets ---- */

/* An inner packet of a flow to or from this net; some are changed. */
static uint32_t inner_packet(struct input *input, uint8_t net, uint8_t *out, struct model_flow **used)
{
    static const uint32_t sizes[] = {100, 1200, 0, 1380};
    uint8_t choice = input_u8(input), size = input_u8(input);
    struct model_flow *flow = &flows[net * 4 + (choice & 3)];
    uint32_t payload = size & 4 ? sizes[size & 3] : size >> 3;
    flow->flags = choice & 0x10 ? 8 : 0;
    flow->tos = choice >> 6;
    *used = flow;
    uint32_t length = model_packet(flow, payload, choice, out);
    if ((choice & 0x2c) == 0x2c)
        out[input_u8(input) % (length < 64 ? length : 64)] = input_u8(input);
    return length;
}

static void make_super(struct input *input, const struct model_flow *flow, struct kernel_packet *packet)
{
    bool v6 = flow->v6;
    uint32_t ip = v6 ? 40 : 20, more = input_u16(input) % 60000;
    uint8_t size = input_u8(input);
    if (packet->length + more > 65535)
        more = 0;
    memset(packet->bytes + packet->length, 0x42, more);
    packet->length += more;
    uint32_t claimed = packet->length - (v6 ? 40 : 0);
    packet->bytes[v6 ? 4 : 2] = (uint8_t)(claimed >> 8);
    packet->bytes[v6 ? 5 : 3] = (uint8_t)claimed;
    packet->vnet = (struct vnet_header){
        .flags = VNET_NEEDS_CSUM, .gso_type = !flow->tcp ? VNET_GSO_UDP_L4 : v6 ? VNET_GSO_TCPV6 : VNET_GSO_TCPV4,
        .hdr_len = (uint16_t)model_header_bytes(flow), .csum_start = (uint16_t)ip, .csum_offset = flow->tcp ? 16 : 6,
        .gso_size = (uint16_t)(size & 1 ? 1380 : 60 + size * 5)};
    if (size == 254)
        ((uint8_t *)&packet->vnet)[input_u8(input) % sizeof(packet->vnet)] = input_u8(input);
    if (packet->vnet.gso_size && packet->length / packet->vnet.gso_size > 400)
        packet->vnet.gso_size = 1000;   /* the kernel makes no larger ones of 64 KiB; slots limit what one read may become */
}

static void from_device(struct input *input, uint8_t slot)
{
    struct model_flow *flow;
    uint8_t how = input_u8(input);
    struct kernel_packet packet = {.bytes = scratch};
    uint32_t queue = model.plane->worker_count > 1 ? slot & 1 : 0;
    if (how < 8) {
        packet.length = 1 + input_u8(input);
        input_copy(input, scratch, packet.length);
        input_copy(input, &packet.vnet, sizeof(packet.vnet));
    } else if (how < 16) {
        packet.error = how & 1 ? EIO : EAGAIN;
        packet.length = 1;
    } else {
        packet.length = inner_packet(input, slot ^ 1, scratch, &flow);   /* the model's destination is the neighbouring net */
        if (how >= 120)
            make_super(input, flow, &packet);
    }
    uint32_t copies = how % 5 ? 1 : how >= 120 ? 4 : 32;   /* a burst, so that slots and queues run out */
    while (copies--) {
        packet.bytes = exactly(scratch, packet.length);
        kernel_put(kernel_nth(KERNEL_TUN, 0, queue), &packet);
    }
}

static uint32_t data_message(struct input *input, uint8_t slot, uint8_t *out)
{
    static uint8_t plain[4096];
    struct model_flow *flow;
    uint8_t choice = input_u8(input);
    struct session *session = NULL;
    for (uint32_t i = model.sessions, skip = choice & 3; i-- > 0 && !session;)
        if (model.life[model.session[i].life].slot == slot && !skip--)
            session = &model.session[i];
    if (!session)
        return 0;
    uint32_t length = choice & 64 ? 0 : inner_packet(input, slot, plain, &flow);
    uint32_t padded = (length + 15) & ~15u;
    if (!length)
        model.others++;   /* three keepalives may be a probe, whose answer may be dropped */
    memset(plain + length, 0, padded - length);
    uint64_t counter = choice & 4 ? input_u16(input) : choice & 8 ? WG_REJECT_AFTER_MESSAGES - input_u8(input) : session->counter++;
    uint32_t type = htole32(session->type), index = htole32(session->local);
    uint64_t wire = htole64(counter);
    memcpy(out, &type, 4);
    memcpy(out + 4, &index, 4);
    memcpy(out + 8, &wire, 8);
    model_seal(session->receive_secret, counter, plain, padded, out + WG_DATA_HEADER);
    if ((choice & 0xbc) == 0x30) {   /* the marking of another cipher */
        type ^= htole32(WG_MARK_AES_256_GCM);
        memcpy(out, &type, 4);
    }
    if ((choice & 0xb0) == 0xb0)
        out[input_u8(input) % (padded + WG_DATA_MIN)] ^= input_u8(input);
    return padded + WG_DATA_MIN;
}

static uint32_t handshake_message(struct input *input, uint8_t *out)
{
    static const uint32_t lengths[] = {WG_INITIATION_BYTES, WG_RESPONSE_BYTES, WG_COOKIE_REPLY_BYTES};
    uint8_t choice = input_u8(input);
    uint32_t kind = choice % 3, length = lengths[kind], index = model.sessions ? model.session[input_u8(input) % model.sessions].local : 0;
    memset(out, 0, length);
    out[0] = (uint8_t)(kind + 1);
    if (choice & 4)
        memcpy(out + 1, "uAG", 3);
    memcpy(out + (kind == 1 ? 8 : 4), &index, 4);
    if (choice & 8)
        model_mac(model_mac1_key, 32, out, length - 32, out + length - 32);
    out[length - 1] = choice & 16 ? 1 : 0;
    return length - (choice & 0x60 ? 0 : choice >> 7);
}

static uint32_t one_message(struct input *input, uint8_t slot, uint8_t *out)
{
    uint8_t how = input_u8(input);
    if (how >= 40)
        return data_message(input, slot, out);
    if (how >= 16)
        return handshake_message(input, out);
    uint32_t length = input_u8(input);
    input_copy(input, out, length);
    return length;
}

/* A datagram, or a train of messages of one length. It goes to the socket that the kernel's program would choose, or to
 * another. */
static void from_network(struct input *input, uint8_t slot)
{
    uint8_t choice = input_u8(input);
    uint32_t messages = choice & 1 ? 1 : 1 + (choice >> 4), segment = 0;
    uint8_t where = input_u8(input);
    struct kernel_packet packet = {.bytes = scratch, .source = model_address(slot, where), .tos = choice >> 1 & 3,
                                   .interface_index = where & 8 ? 2 : 1};
    packet.local = (struct udpring_address){.family = packet.source.family, .ip = {10, 0, 0, choice & 1}};
    for (uint32_t i = 0; i < messages && packet.length < 60000; i++) {
        uint32_t length = one_message(input, slot, scratch + packet.length);
        if (!segment)
            segment = length;
        if (length > segment)
            length = segment;
        packet.length += length;
        if (length < segment || !length)
            break;
    }
    if (packet.length > segment)
        packet.segment = segment;
    if (choice & 8)
        packet.error = choice & 0x10 ? ECONNREFUSED : ENOMEM;
    bool data = packet.length >= WG_DATA_MIN && (wg_le32(scratch) & ~WG_MARK_AES_256_GCM) == WG_TYPE_DATA;
    uint32_t which = data != ((choice & 0xf6) == 0xf6) ? 1 + (slot & 1) % model.plane->worker_count : 0;
    struct life *life = &model.life[model.present[slot]];
    life->reordered |= life->family != packet.source.family;   /* it may roam to the other socket */
    packet.bytes = exactly(scratch, packet.length);
    kernel_put(kernel_nth(KERNEL_UDP, packet.source.family, which), &packet);
}

/* ---- faults of the kernel ---- */

static void set_errors(struct input *input)
{
    static const int errors[] = {EMSGSIZE, EIO, EINVAL, ENETUNREACH, EPERM, ENOBUFS, EAGAIN, ECONNREFUSED};
    uint8_t choice = input_u8(input);
    if (choice & 0x80) {
        model.write_error = choice & 1 ? EIO : EINVAL;
        model.write_errors = choice >> 2 & 7;
        model.only_supers = choice & 2;
        return;
    }
    model.send_error = errors[choice & 7];
    model.send_errors = choice >> 3 & 7;
    model.only_trains = choice & 0x40;
}

static void set_full(uint8_t choice)
{
    for (uint32_t i = 0; i < KERNEL_FDS; i++)
        if (kernel.file[i].kind == KERNEL_UDP)
            kernel.file[i].full = choice & 1 && (choice & 2 || kernel.file[i].family == AF_INET);
}

static void rebind(struct input *input)
{
    uint16_t port = (uint16_t)input_u16(input);
    struct udpring_reason why;
    for (uint32_t i = 0; i < LIVES; i++)
        model.life[i].reordered = true;   /* new sockets: packets in the old buffers have no order */
    CLAIM(udpring_plane_bind(model.plane, &port, port & 1, &why) == 0, "a new port");
}

/* Completions of operations that are not in flight: a message of another ring, or one of an earlier operation in the slot. */
static void stray(struct input *input)
{
    uint8_t choice = input_u8(input);
    uint64_t user_data = choice & 0x80 ? uring_ended(choice & 7) : UR_USER_DATA(UR_KIND_MESSAGE, choice, input_u8(input));
    uring_post_stray(choice & 7, user_data, (int32_t)input_u8(input) - 128, IORING_CQE_F_MORE);
}

static void quiet(void)
{
    threads_run();
    paths_check();
    in_check_quiet();
    out_check_quiet();
}

static void step(struct input *input)
{
    uint8_t operation = input_u8(input), slot = operation >> 6;
    if ((operation & 31) > 3 && operation % 64 != 31 && (operation & 31) != 25)
        paths_changed();
    switch (operation & 31) {
    case 0: case 1: case 2: case 3: from_device(input, slot); return;
    case 4: case 5: case 6: case 7: case 8: from_network(input, slot); return;
    case 9: case 10: new_session(input, slot); break;
    case 11: change_keys(input, slot); break;
    case 12:
        if (operation & 32)
            replace_peer(slot, input_u8(input));
        else
            CLAIM(udpring_plane_forget_refusals(model.plane) == (model.asks ? 0 : -ENOTSUP), "refusals are forgotten");
        break;
    case 13: send_something(input, slot); break;
    case 14: set_endpoint(slot, input_u8(input)); break;
    case 15: set_net(input_u8(input) % NETS, slot, operation & 32); break;
    case 16: set_errors(input); return;
    case 17: set_full(input_u8(input)); return;
    case 18: look(input, slot); break;
    case 19: flood_age_cookies(operation & 32 ? COOKIE_SECRET_NS : 2 * COOKIE_SECRET_NS); break;
    case 20: kernel.mtu = (uint32_t[]){1420, 1280, 68, 9000, 65535, 1421, 576, 1500}[input_u8(input) & 7]; return;
    case 21: if (operation & 32) rebind(input); break;
    case 22: threads_pass_time((uint64_t)input_u8(input) * input_u8(input) * 100000u); break;
    case 23: threads_pass_time((uint64_t)input_u8(input) * 1000000000u); break;
    case 24: kernel.device_gone |= (operation & 0xe0) == 0xe0; break;
    case 25: quiet(); break;
    case 26: stray(input); break;
    case 27: paths_outer(input_u8(input), slot, operation & 32); break;
    case 28: paths_authenticated(input, slot); break;
    case 29: paths_step(input, slot); return;
    case 30:
        if (operation & 32)
            threads_run();
        CLAIM(udpring_plane_mark(model.plane, input_u8(input) & 3) == 0, "a mark");
        break;
    case 31:
        if (operation & 32)
            flood_step(input, slot);
        else
            threads_run();
        break;
    default: threads_run(); break;
    }
}

static void open_plane(struct input *input)
{
    static const uint8_t tiers[] = {UDPRING_TIER_MMSG, UDPRING_TIER_URING_MULTISHOT, UDPRING_TIER_URING_POOL, UDPRING_TIER_MMSG};
    uint8_t choice = input_u8(input), peers = input_u8(input), asks = input_u8(input);
    struct udpring_plane_options options = {
        .name = "fuzz0", .tier = tiers[peers >> 4 & 3], .slots = choice & 1 ? 4 : 32, .mailbox = choice & 2 ? 8 : 64,
        .listen_port = 51820, .workers = choice & 4 ? 2 : 1,
        .flags = (uint16_t)((choice & 8 ? UDPRING_PLANE_NO_UDP_OFFLOAD : 0) | (choice & 16 ? UDPRING_PLANE_NO_TUN_OFFLOAD : 0) |
                            (asks & 128 ? UDPRING_PLANE_ASKS : 0))};
    struct udpring_reason why = {""};
    int32_t code;
    model.asks = asks & 128;
    model_aead.fail_seal_at = asks & 127;
    kernel_reset();
    uring_reset();
    netlink_reset();
    kernel.has_netlink = choice & 128;
    kernel.tells_space = memory_kept = true;
    kernel.map = memory_map;
    kernel.tunnel = ROUTE_TUNNEL;
    model_routes.dump_fault = peers >> 6;
    kernel.active = kernel.has_uring = true;
    kernel.mtu = 1420;
    kernel.offloads = choice & 32 ? 0x7f : choice & 64 ? 0x1f : 0x7f;
    kernel.tun_read = out_read;
    kernel.tun_write = in_write;
    kernel.received = in_received;
    kernel.send = out_send;
    threads_now_ns = 1000000000000u;
    threads_active = true;
    model.plane = udpring_plane_open(&options, &code, &why);
    CLAIM(model.plane, "%d: %s", code, why.text);
    CLAIM(udpring_plane_identity(model.plane, model_mac1_key, model_cookie_key) == 0, "an identity");
    CLAIM(udpring_plane_watch_roaming(model.plane, 1) == 0, "roaming is watched");
    memset(model.owner, NOBODY, sizeof(model.owner));
    memset(model.outer, NOBODY, sizeof(model.outer));
    for (uint8_t slot = 0; slot < PEERS; slot++)
        add_peer(slot, peers >> slot & 1);
}

static void close_plane(void)
{
    model.send_errors = model.write_errors = 0;
    set_full(0);
    threads_pass_time(2000000000);
    quiet();
    for (uint8_t slot = 0; slot < PEERS; slot++)
        CLAIM(udpring_plane_peer_remove(model.plane, model.life[model.present[slot]].id) == 0, "a peer is removed");
    CLAIM(!model_aead.keys, "%d keys are left", model_aead.keys);
    for (uint32_t i = 0; i < model.plane->worker_count; i++) {
        const struct worker *worker = &model.plane->workers[i];
        CLAIM(!worker->staged.bytes && !worker->staged.steps, "%zu staged bytes are left", worker->staged.bytes);
        CLAIM(!worker->ready_first, "worker %u has a peer in its list that is gone", i);
    }
    udpring_plane_close(model.plane);
    threads_reset();
    threads_active = false;
    kernel_reset();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {.bytes = bytes, .length = length};
    struct udpring_reason why;
    if (!mac.context)
        CLAIM(mac_engine_open(&mac, &why) == 0, "%s", why.text);
    memset(&model, 0, sizeof(model));
    for (uint32_t i = 0; i < UR_ARRAY_LENGTH(flows); i++)
        flows[i] = (struct model_flow){.v6 = i & 1, .tcp = i & 2, .net = (uint8_t)(FIRST_NET + i / 4), .source = (uint8_t)i, .destination = 9,
                                       .ports = (uint8_t)i, .options = i & 4 ? 12 : 0, .sequence = 0xffff0000u};
    model_aead_reset();
    out_reset();
    in_reset();
    paths_reset();
    nested_reset();
    events_reset();
    open_plane(&input);
    while (input_left(&input, 1))
        step(&input);
    close_plane();
    return 0;
}
