/* Sequences too long to spell out in an input: datagrams at a rate at which a worker pauses between passes (moderation.h) and
 * yields to their readers (pacing.h), an authentic cookie reply, a mailbox that is not emptied, a stranger that proves its
 * address, and floods of handshakes. */
#include "model_commands.h"
#include "plane_model.h"
#include "../native/abi.h"
#include "tunnel/crypto/cookie_reply.h"

enum { ROUNDS = 60, A_ROUND = 16, ENOUGH = 6000 /* nonces are kept, too */ };

static struct model_flow flow_of(uint8_t net)
{
    return (struct model_flow){.net = net, .source = 77, .destination = 9, .ports = 77};
}

/* Each pause is bounded, so the next round's packets are taken in time. */
static void pass(uint8_t choice)
{
    uint64_t before = threads_now_ns;
    threads_run();
    threads_pass_time((choice & 3) == 3 ? 900000 : 380000);
    CLAIM(threads_now_ns - before < 20000000, "a round takes %lu ns", threads_now_ns - before);
}

static void flood_out(uint8_t net, uint8_t choice)
{
    static uint8_t bytes[MODEL_PACKET_MAX];
    struct model_flow flow = flow_of(net);
    if (model_aead.sealed + model_aead.opened > ENOUGH)
        return;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t i = 0; i < A_ROUND; i++) {
            struct kernel_packet packet = {.length = model_packet(&flow, choice, 0, bytes)};
            packet.bytes = exactly(bytes, packet.length);
            kernel_put(kernel_nth(KERNEL_TUN, 0, 0), &packet);
        }
        pass(choice);
    }
}

static struct session *session_of(uint8_t slot)
{
    for (uint32_t i = model.sessions; i-- > 0;)
        if (model.life[model.session[i].life].slot == slot)
            return &model.session[i];
    return NULL;
}

static void flood_in(uint8_t slot, uint8_t choice)
{
    static uint8_t plain[MODEL_PACKET_MAX], message[MODEL_PACKET_MAX + WG_DATA_MIN + WG_PADDING];
    struct session *session = session_of(slot);
    struct model_flow flow = flow_of((uint8_t)(FIRST_NET + slot));
    model_read_all();
    in_check_quiet();   /* also forgets delivered packets, because the model keeps a limited number */
    if (model_aead.sealed + model_aead.opened > ENOUGH)
        return;
    kernel.yield_ns = choice & 4 ? 500000 : 0;
    for (uint32_t round = 0; session && round < ROUNDS; round++) {
        for (uint32_t i = 0; i < A_ROUND; i++) {
            uint32_t length = model_packet(&flow, choice, 0, plain), padded = (length + 15) & ~15u;
            struct kernel_packet packet = {.length = padded + WG_DATA_MIN, .source = model_address(slot, 0), .interface_index = 1};
            uint32_t type = htole32(session->type), index = htole32(session->local);
            uint64_t counter = session->counter++, wire = htole64(counter);
            packet.local = (struct udpring_address){.family = packet.source.family, .ip = {10, 0, 0, 1}};
            memset(plain + length, 0, padded - length);
            memcpy(message, &type, 4);
            memcpy(message + 4, &index, 4);
            memcpy(message + 8, &wire, 8);
            model_seal(session->receive_secret, counter, plain, padded, message + WG_DATA_HEADER);
            packet.bytes = exactly(message, packet.length);
            kernel_put(kernel_nth(KERNEL_UDP, AF_INET, 1), &packet);
        }
        pass(choice);
    }
    kernel.yield_ns = 0;
}

/* An initiation is sent and answered with a cookie reply, authentic or not. */
static void cookie_comes(uint8_t slot, uint8_t choice)
{
    static struct cookie_sealer sealer;
    static const uint8_t nonce[COOKIE_NONCE_BYTES] = {3}, cookie[MAC_COOKIE_BYTES] = {4};
    const struct session *session = session_of(slot);
    uint8_t message[WG_INITIATION_BYTES] = {1}, reply[WG_COOKIE_REPLY_BYTES];
    struct udpring_reason why;
    if (!session || model.life[session->life].slot != slot || model.present[slot] != session->life)
        return;
    if (!sealer.context)
        CLAIM(cookie_sealer_open(&sealer, &why) == 0, "%s", why.text);
    uint32_t sender = htole32(session->local);
    memcpy(message + 4, &sender, sizeof(sender));
    message[WG_INITIATION_BYTES - 2 * MAC_BYTES] = choice;
    model.others++;
    (void)udpring_plane_send(model.plane, model.life[session->life].id, message, sizeof(message), 0, NULL, NULL, 0, model_cookie_key);
    CLAIM(cookie_reply_make(&sealer, model_cookie_key, nonce, message + 4, message + WG_INITIATION_BYTES - 2 * MAC_BYTES, cookie, reply) == 0,
          "a cookie reply");
    for (uint32_t i = 0; i < 1u + (choice & 1); i++) {
        struct kernel_packet packet = {.length = sizeof(reply), .source = model_address(slot, 0), .interface_index = 1};
        packet.bytes = exactly(reply, sizeof(reply));
        packet.bytes[sizeof(reply) - 1] ^= choice & 2;
        packet.local = (struct udpring_address){.family = packet.source.family, .ip = {10, 0, 0, 1}};
        kernel_put(kernel_nth(KERNEL_UDP, AF_INET, 0), &packet);
    }
}

/* All peers request keys again and again, and no one reads the events. */
static void fill_mailbox(uint8_t rounds)
{
    static uint8_t bytes[MODEL_PACKET_MAX];
    for (uint32_t round = 0; round < 2u + rounds % 24; round++) {
        for (uint8_t net = 0; net < NETS; net++) {
            struct model_flow flow = flow_of((uint8_t)(FIRST_NET + net));
            struct kernel_packet packet = {.length = model_packet(&flow, 1 + round * 24, 0, bytes)};   /* no train */
            packet.bytes = exactly(bytes, packet.length);
            kernel_put(kernel_nth(KERNEL_TUN, 0, 0), &packet);
        }
        threads_run();
        threads_pass_time(WANTED_INTERVAL_NS);
    }
}

/* Not to before the host started. */
void flood_age_cookies(uint64_t ns)
{
    if (model.plane->cookies.born_ns > ns)
        udpring_plane_test_cookie_age(model.plane, ns);
}

static void initiation_from(const struct udpring_address *source, const uint8_t message[WG_INITIATION_BYTES])
{
    struct kernel_packet packet = {.length = WG_INITIATION_BYTES, .source = *source, .interface_index = 1};
    packet.bytes = exactly(message, WG_INITIATION_BYTES);
    packet.local = (struct udpring_address){.family = packet.source.family, .ip = {10, 0, 0, 1}};
    kernel_put(kernel_nth(KERNEL_UDP, source->family, 0), &packet);
    threads_run();
}

static uint64_t refused_proofs(void)
{
    uint64_t refused = 0;
    for (uint32_t i = 0; i < model.plane->worker_count; i++)
        refused += model.plane->workers[i].stats.drops[UDPRING_DROP_BAD_MAC2];
    return refused;
}

static uint64_t looked_at(void)
{
    static const enum udpring_drop reasons[] = {UDPRING_DROP_BAD_MAC1, UDPRING_DROP_BAD_MAC2, UDPRING_DROP_MAILBOX_FULL};
    uint64_t count = 0;
    for (uint32_t i = 0; i < model.plane->worker_count; i++) {
        count += model.plane->workers[i].stats.events;
        for (uint32_t k = 0; k < UR_ARRAY_LENGTH(reasons); k++)
            count += model.plane->workers[i].stats.drops[reasons[k]];
    }
    return count;
}

/* A stranger sends initiations until the node is under load and answers with a cookie. The stranger proves its address with it:
 * at once, after one change of the secret, or when the cookie is too old. */
static void prove_address(uint8_t slot, uint8_t choice)
{
    static struct cookie_sealer sealer;
    struct udpring_address source = model_address(slot, choice & 0xf0);
    uint8_t message[WG_INITIATION_BYTES] = {1, 0, 0, 0, choice, 0xaa, 0xbb, 0xcc}, cookie[MAC_COOKIE_BYTES], *mac1 = message + WG_INITIATION_BYTES - 2 * MAC_BYTES;
    uint32_t most = model.plane->mailbox.capacity, age = choice & 3, replies = model.cookie_replies;
    struct udpring_reason why;
    model_read_all();
    for (uint32_t i = 0; i < model.plane->worker_count; i++)
        if (udp_tx_pending(model.plane->workers[i].tx))
            return;   /* its cookie may be for another message */
    bool outlived = threads_now_ns >= model.plane->cookies.born_ns + COOKIE_SECRET_NS;
    if (!kernel_nth(KERNEL_UDP, source.family, 0) || (outlived && model.plane->worker_count > 1))
        return;   /* several workers use an old secret until all are stopped */
    if (!sealer.context)
        CLAIM(cookie_sealer_open(&sealer, &why) == 0, "%s", why.text);
    model_mac(model_mac1_key, 32, message, WG_INITIATION_BYTES - 2 * MAC_BYTES, mac1);
    for (uint32_t i = 0; i <= most && model.cookie_replies == replies; i++)
        initiation_from(&source, message);
    if (model.cookie_replies == replies || memcmp(model.cookie_reply + 4, message + 4, 4))
        return;   /* none, or for another message */
    CLAIM(cookie_reply_open(&sealer, model_cookie_key, model.cookie_reply, mac1, cookie) == 0, "the cookie does not open");
    model_mac(cookie, sizeof(cookie), message, WG_INITIATION_BYTES - MAC_BYTES, message + WG_INITIATION_BYTES - MAC_BYTES);
    for (uint32_t i = 0; i < age; i++) {   /* each time a message makes the plane change its secret */
        uint8_t other[WG_INITIATION_BYTES] = {1, 0, 0, 0, 9};
        model_mac(model_mac1_key, 32, other, WG_INITIATION_BYTES - 2 * MAC_BYTES, other + WG_INITIATION_BYTES - 2 * MAC_BYTES);
        flood_age_cookies(COOKIE_SECRET_NS);
        initiation_from(&source, other);
    }
    uint64_t refused = refused_proofs(), full = model.plane->workers[0].stats.drops[UDPRING_DROP_MAILBOX_FULL];
    uint64_t before = looked_at();
    bool under_load = threads_now_ns < model.plane->load_until_ns;
    events_address_proved();
    initiation_from(&source, message);
    if (looked_at() == before) {   /* the worker pauses, and may look at it when it is no longer under load */
        events_address_may_be_proved();
        return;
    }
    bool kept = refused_proofs() == refused, too_full = model.plane->workers[0].stats.drops[UDPRING_DROP_MAILBOX_FULL] != full;
    if (under_load && model.plane->has_identity)
        CLAIM(kept == (age < 2), "the proof of an address by a cookie of %u secrets ago is %s", age, kept ? "taken" : "refused");
    if (!kept || too_full || !under_load)
        events_address_not_proved();
}

/* More initiations of strangers than may be looked at while data flows, on the handshake socket or on a data socket. */
static void flood_handshakes(uint8_t slot, uint8_t choice)
{
    uint8_t message[WG_INITIATION_BYTES] = {1};
    uint32_t which = choice & 1;
    struct kernel_file *socket = kernel_nth(KERNEL_UDP, AF_INET, which);
    const uint64_t *data = &model.plane->data_ns;
    model_read_all();
    uint64_t before = looked_at(), began = threads_now_ns, workers = model.plane->worker_count;
    bool flows = began < *data + DATA_FLOWS_NS / 2;
    for (uint32_t round = 0; socket && round < 8; round++) {
        for (uint32_t i = 0; i < 120; i++) {
            message[4] = (uint8_t)i;
            if (choice & 2)
                model_mac(model_mac1_key, 32, message, WG_INITIATION_BYTES - 2 * MAC_BYTES, message + WG_INITIATION_BYTES - 2 * MAC_BYTES);
            struct kernel_packet packet = {.length = sizeof(message), .source = model_address(slot, (uint8_t)(choice & 4 ? i << 4 : 0)), .interface_index = 1};
            packet.bytes = exactly(message, sizeof(message));
            packet.local = (struct udpring_address){.family = AF_INET, .ip = {10, 0, 0, 1}};
            kernel_put(socket, &packet);
        }
        threads_run();
    }
    uint64_t time = threads_now_ns - began, most = HANDSHAKE_BURST + time / HANDSHAKE_NS + workers * (STRAY_BURST + time / STRAY_NS + 2);
    if (flows && threads_now_ns < *data + DATA_FLOWS_NS)
        CLAIM(looked_at() - before <= most, "%lu messages are looked at in %lu ns", looked_at() - before, time);
    threads_pass_time(100000000);
}

void flood_step(struct input *input, uint8_t slot)
{
    uint8_t choice = input_u8(input), size = input_u8(input);
    struct life *life = &model.life[model.present[slot]];
    switch (choice & 7) {
    case 0: case 1: flood_out((uint8_t)(FIRST_NET + slot), size); break;
    case 2: case 3:
        life->reordered |= life->family != AF_INET;   /* it may roam to the other socket */
        flood_in(slot, size);
        break;
    case 4:   /* staged packets fill the common limit */
        for (uint32_t i = 0; i < model.plane->worker_count; i++)
            model.plane->workers[i].staged.most = 600u << (size & 7);
        break;
    case 5: cookie_comes(slot, size); break;
    case 6: choice & 8 ? prove_address(slot, size) : choice & 16 ? flood_handshakes(slot, size) : fill_mailbox(size); break;
    default:
        threads_run();
        CLAIM(udpring_plane_identity(model.plane, size & 1 ? model_mac1_key : NULL, size & 1 ? model_cookie_key : NULL) == 0, "an identity");
    }
}
