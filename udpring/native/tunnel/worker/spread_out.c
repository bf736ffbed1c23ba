/* Out, by several workers. The owner lays out a super-packet: nonces in order, and for each packet its place in a train. A
 * train that closes is held back until the jobs that it depends on are done. Packets that the owner seals itself join the
 * same trains in the same order, so none is overtaken. */
#include "spread_out.h"

#include "../tun/ecn.h"

#include "own_messages.h"
#include "seal.h"
#include "staged.h"

/* Any worker. */
static void seal_job(struct spread_job *job, uint32_t worker)
{
    struct aead_key *key = job->keypair->sending[worker];
    uint8_t *packet;
    uint32_t length;
    for (uint32_t i = 0; i < job->out.count && segment_next(&job->out.segmenter, &packet, &length); i++) {
        struct spread_packet *each = &job->out.packet[i];
        each->failed = each->place &&
                       seal_into(key, job->keypair, packet, length, each->full, each->place, each->counter) < 0;
    }
}

/* The owner's part of a finished job. */
static void seal_job_done(struct worker *worker, const struct spread_job *job)
{
    for (uint32_t i = 0; i < job->out.count; i++)
        if (ur_unlikely(job->out.packet[i].failed))
            worker->out[(size_t)(job->out.packet[i].place - worker->out_memory) / OUT_SLOT_BYTES].broken = true;
    flow_queue_release(worker->flows, job->out.source);
}

/* The slots ran out within the super-packet. The remaining packets are staged, behind those that have a place. */
static void send_rest(struct worker *worker, struct peer *peer, struct segmenter *segmenter)
{
    uint8_t *packet;
    uint32_t length;
    while (segment_next(segmenter, &packet, &length)) {
        worker->stats.tun_packets_in++;
        worker->stats.tun_bytes_in += length;
        staged_put(worker, peer, packet, length);
    }
}

static bool may_be_a_job(const struct worker *worker, const struct peer *peer, const struct flow_packet *packet)
{
    return packet->vnet.gso_type != VNET_GSO_NONE && keypair_can_send(peer->current, worker->now) &&
           !peer->staging[worker->number].count && !own_message_likely(worker, packet->packet, packet->length);
}

/* Whether it has SPREAD_PACKETS_MIN to SPREAD_PACKETS packets, and the route has taken trains of this size. */
static bool makes_trains(const struct worker *worker, const struct peer *peer, const struct segmenter *segmenter)
{
    uint32_t count = segment_count(segmenter);
    uint32_t longest = WG_DATA_HEADER + seal_padded(worker, segment_length(segmenter, 0)) + WG_TAG;
    trains_t trains = __atomic_load_n(&peer->trains, __ATOMIC_RELAXED);
    return count >= SPREAD_PACKETS_MIN && count <= SPREAD_PACKETS && trains != TRAINS_REFUSED && trains >= longest;
}

/* Lays the packets out. False: no slot was left for all of them. */
static bool lay_out(struct worker *worker, struct peer *peer, struct spread_job *job)
{
    const struct segmenter *segmenter = &job->out.segmenter;
    uint32_t count = segment_count(segmenter);
    uint8_t tos = ecn_of(segmenter->packet);
    bool old = false;
    for (job->out.count = 0; job->out.count < count; job->out.count++) {
        uint32_t length = segment_length(segmenter, job->out.count);
        bool this_old = false;
        int result = seal_reserve(worker, peer, length, tos, &job->out.packet[job->out.count], &this_old);
        if (ur_unlikely(result == -ENOBUFS))
            break;
        if (ur_unlikely(result < 0))
            plane_drop(worker, UDPRING_DROP_SEND_FAILED);
        old |= this_old;
        worker->stats.tun_packets_in++;
        worker->stats.tun_bytes_in += length;
    }
    seal_reserved(worker, peer, old);
    return job->out.count == count;
}

bool spread_out_take(struct worker *worker, struct peer *peer, struct flow_packet *packet)
{
    struct spread *spread = worker->spread;
    struct spread_job *job = spread_room(spread);
    if (!job || !may_be_a_job(worker, peer, packet))
        return false;
    /* An error is counted when the caller sends the packet as usual. */
    if (segment_open(&job->out.segmenter, &packet->vnet, packet->packet, packet->length) < 0 ||
        !makes_trains(worker, peer, &job->out.segmenter))
        return false;
    job->run = seal_job;
    job->keypair = peer->current;
    job->out.source = packet;
    worker->spread_pending = spread->laying_out = true;
    bool whole = lay_out(worker, peer, job);
    spread->laying_out = false;
    if (ur_likely(whole)) {
        spread_publish(worker);
    } else {
        spread_publish_done(worker);
        send_rest(worker, peer, &job->out.segmenter);
    }
    return true;
}

/* Handles the jobs that are done, up to the first that is not. */
static void see_done(struct worker *worker)
{
    struct spread *spread = worker->spread;
    for (; spread->done < spread->used && spread_is_done(spread, spread->done); spread->done++)
        seal_job_done(worker, &spread->job[spread->done]);
}

static bool push_ready(struct worker *worker)
{
    struct spread *spread = worker->spread;
    uint32_t before = spread->pushed;
    see_done(worker);
    while (spread->pushed < spread->trains && spread->train[spread->pushed % OUT_SLOTS].after <= spread->done)
        seal_push_train(worker, spread->train[spread->pushed++ % OUT_SLOTS].slot);
    return spread->pushed != before;
}

void spread_out_push(struct worker *worker)
{
    if (push_ready(worker))
        (void)udp_tx_flush(worker->tx);   /* the flush at the end of the pass reports a lost socket, too */
}

void spread_out_join(struct worker *worker)
{
    struct spread *spread = worker->spread;
    while (spread->done < spread->used) {
        spread_finish(worker, spread->done);
        if (push_ready(worker) && spread->done < spread->used)
            (void)udp_tx_flush(worker->tx);
    }
    (void)push_ready(worker);
    spread->used = spread->done = spread->trains = spread->pushed = 0;
    worker->spread_pending = false;
}
