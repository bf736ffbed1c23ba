#include "plane_model.h"
#include "tunnel/tun/ecn.h"

static struct delivery delivery;

void in_reset(void)
{
    delivery_clear(&delivery);
    delivery.lossy = true;
}

/* The inner packet of a message that the core may deliver. */
static void may_be_delivered(const struct session *session, uint8_t *inner, uint32_t room, uint8_t tos)
{
    bool v6 = room && inner[0] >> 4 == 6;
    if (room < 20 || (inner[0] >> 4 != 4 && !v6) || (v6 && room < 40))
        return;
    uint32_t length = ((uint32_t)inner[v6 ? 4 : 2] << 8 | inner[v6 ? 5 : 3]) + (v6 ? 40 : 0);
    if (length < 20 || length > room || model_owner(inner, room, false) != session->life)
        return;
    if (ecn_decapsulate(inner, tos))   /* checked against RFC 6040 by tests/tunnel */
        delivery_in(&delivery, inner, length);
}

static void message_received(const struct kernel_packet *packet, const uint8_t *message, uint32_t length)
{
    static uint8_t inner[MODEL_PACKET_MAX];
    model.messages_in++;
    const struct session *session = length >= WG_DATA_MIN ? model_session(wg_le32(message + 4), true) : NULL;
    if (!session || wg_le32(message) != session->type)
        return;
    if (model_open(session->receive_secret, wg_le64(message + 8), message + WG_DATA_HEADER, length - WG_DATA_HEADER, inner))
        may_be_delivered(session, inner, length - WG_DATA_MIN, packet->tos);
}

void in_received(int fd, const struct kernel_packet *packet, bool truncated)
{
    if (truncated) {
        model.messages_in++;
        return;
    }
    uint32_t segment = packet->segment && packet->segment < packet->length ? packet->segment : packet->length, at = 0;
    do {
        message_received(packet, packet->bytes + at, packet->length - at < segment ? packet->length - at : segment);
        at += segment;
    } while (at < packet->length);
}

int in_write(uint32_t queue, const struct vnet_header *vnet, const struct iovec *parts, int count)
{
    if (model.write_errors && (vnet->gso_type || !model.only_supers)) {
        model.write_errors--;
        return -model.write_error;
    }
    delivery_tun_write(&delivery, vnet, parts, count);
    return 0;
}

/* Each message that arrived was delivered, posted, a keepalive, or dropped and counted: exactly one of these. */
void in_check_quiet(void)
{
    events_check_quiet();
    nested_check_quiet();
    uint64_t accounted = model_aead.empty_opened;
    for (uint32_t i = 0; i < model.plane->worker_count; i++) {
        const struct worker *worker = &model.plane->workers[i];
        CLAIM(!worker->coalescer.used, "%u packets wait in the coalescer", worker->coalescer.used);
        accounted += worker->stats.tun_packets_out;
        for (uint32_t reason = 0; reason < UDPRING_DROP_NO_PEER; reason++)
            accounted += worker->stats.drops[reason];
    }
    accounted += model.handshake_events;
    CLAIM(accounted == model.messages_in, "%lu messages came, %lu are accounted for", model.messages_in, accounted);
    delivery_clear(&delivery);
}
