/* Sequences too long to spell out in an input: datagrams at a rate at which a worker pauses between passes (moderation.h) and
 * yields
 * to their readers (pacing.h), and an authentic cookie reply. */
#include "plane_model.h"
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
    default:
        threads_run();
        CLAIM(udpring_plane_identity(model.plane, size & 1 ? model_mac1_key : NULL, size & 1 ? model_cookie_key : NULL) == 0, "an identity");
    }
}
