/* Messages of the plane that come out of its own device (native/tunnel/worker/own_messages.c). Those that the allowed IPs lead back
 * to their own receiver never leave again, whatever the routes say. */
#include "plane_model.h"

#include <netinet/in.h>

static struct peer *of_slot(uint32_t slot)
{
    return plane_peer(model.plane, model.life[model.present[slot]].id);
}

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

/* A packet of this host with such a message, or with one that differs in one point. */
void own_step(struct input *input, uint8_t slot)
{
    enum { LENGTH = 96 };
    uint8_t choice = input_u8(input), bytes[48 + 8 + LENGTH] = {0};
    const struct peer *peer = of_slot(slot);
    const struct session *session = NULL;
    for (uint32_t i = 0; i < model.sessions; i++)
        if (model.session[i].life == model.present[slot])
            session = &model.session[i];
    if (!session || !peer->endpoint.family)
        return;
    bool v4 = peer->endpoint.family == AF_INET, fragment = choice & 1;
    uint32_t header = v4 ? 20 : fragment ? 48 : 40, type = session->type, number = session->remote;
    if (choice & 2) {
        type += WG_TYPE_INITIATION - WG_TYPE_DATA;
        number = session->local;
    }
    bytes[0] = v4 ? 0x45 : 0x60;
    memcpy(bytes + (v4 ? 16 : 24), peer->endpoint.ip, v4 ? 4 : 16);
    if (v4) {
        put16(bytes + 2, header + 8 + LENGTH);
        put16(bytes + 6, fragment ? 0x2000 : 0);
        bytes[9] = IPPROTO_UDP;
    } else {
        put16(bytes + 4, header - 40 + 8 + LENGTH);
        bytes[6] = fragment ? IPPROTO_FRAGMENT : IPPROTO_UDP;
        bytes[40] = IPPROTO_UDP;
        bytes[43] = fragment;
    }
    put16(bytes + header, plane_port(model.plane));
    put16(bytes + header + 2, peer->endpoint.port);
    put16(bytes + header + 4, 8 + LENGTH);
    type = htole32(type);
    number = htole32(number);
    memcpy(bytes + header + 8, &type, 4);
    memcpy(bytes + header + 12, &number, 4);
    if (choice & 4)
        bytes[input_u8(input) % (header + 16)] ^= input_u8(input);
    struct kernel_packet packet = {.length = header + 8 + LENGTH};
    packet.bytes = exactly(bytes, packet.length);
    kernel_put(kernel_nth(KERNEL_TUN, 0, model.plane->worker_count > 1 ? choice >> 7 : 0), &packet);
}

/* Whose message this is: the rule once more, over all peers. */
static uint8_t receiver(const uint8_t *packet, uint32_t length)
{
    uint8_t version = length >= 20 ? packet[0] >> 4 : 0;
    uint32_t header = version == 4 ? 4 * (packet[0] & 15u) : 40;
    uint8_t protocol = version == 4 ? packet[9] : version == 6 ? packet[6] : 0;
    if (version == 6 && protocol == IPPROTO_FRAGMENT && length >= 48) {
        protocol = (packet[42] << 8 | packet[43]) >> 3 ? 0 : packet[40];
        header = 48;
    }
    if (protocol != IPPROTO_UDP || header < 20 || length < header + 16 || (version == 4 && ((packet[6] << 8 | packet[7]) & 0x1fff)))
        return NOBODY;
    const uint8_t *udp = packet + header;
    uint32_t type = wg_le32(udp + 8), number = wg_le32(udp + 12);
    bool handshake = (type & 0xff) == WG_TYPE_INITIATION || (type & 0xff) == WG_TYPE_RESPONSE;
    if ((udp[0] << 8 | udp[1]) != plane_port(model.plane) || (type >> 8 && type >> 8 != WG_MARK_AES_256_GCM >> 8))
        return NOBODY;
    for (uint32_t slot = 0; slot < PEERS; slot++) {
        const struct peer *peer = of_slot(slot);
        bool v4 = peer->endpoint.family == AF_INET;
        if (!peer->endpoint.family || v4 != (version == 4) || (udp[2] << 8 | udp[3]) != peer->endpoint.port ||
            memcmp(peer->endpoint.ip, packet + (v4 ? 16 : 24), v4 ? 4 : 16))
            continue;
        const struct index_entry *entry = index_table_find(&model.plane->indices, number);
        const struct keypair *keys[] = {peer->current, peer->previous};
        bool own = handshake && entry && entry->peer == peer->id;
        for (uint32_t i = 0; i < 2; i++)
            own |= keys[i] && keys[i]->data_type == type && keys[i]->remote_index == number;
        return own ? model.present[slot] : NOBODY;
    }
    return NOBODY;
}

enum own own_read(uint8_t life, const uint8_t *packet, uint32_t length)
{
    uint8_t to = receiver(packet, length);
    if (to == NOBODY)
        return OWN_NOT;
    model.own_read = true;
    return to == life ? OWN_LOOPS : OWN_MAY_LOOP;
}
