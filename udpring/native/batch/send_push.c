#include "send_push.h"

#include "../udp/tx_tier.h"

#include "send_fan.h"

#define REAP 64
#define SPARE_JOBS 8u             /* ended jobs whose memory is kept for the next ones */
#define SPARE_CAPACITY 65536u     /* a job with room for more datagrams is freed */

void send_end_job(struct udpring_send *send, struct send_job *job)
{
    send->finished++;
    job->face = NULL;
    if (send->spares >= SPARE_JOBS || job->capacity > SPARE_CAPACITY) {
        send_job_free(job);
        return;
    }
    job->next = send->spare;
    send->spare = job;
    send->spares++;
}

/* Sets the result (0 or -errno) of `count` datagrams from a position on. */
static void give_result(struct udpring_send *send, struct send_job *job, uint32_t first, uint32_t count, int32_t result)
{
    struct udpring_send_job *face = job->face;
    if (ur_unlikely(result)) {
        for (uint32_t position = first; position < first + count; position++)
            face->results[send_job_index(job, position)] = result;
        face->failed += count;
    }
    face->ended += count;
    send->unfinished -= count;
}

static void free_piece(struct udpring_send *send, struct send_piece *piece)
{
    struct send_job *job = piece->job;
    piece->job = NULL;
    send->free[send->free_count++] = (uint32_t)(piece - send->piece);
    if (job->face->ended == job->face->count)
        send_end_job(send, job);
}

/* Pushes the datagrams of refused trains one by one. False: no room, some remain. */
static bool push_again(struct udpring_send *send)
{
    while (send->again_first != SEND_NO_PIECE) {
        uint32_t number = send->again_first;
        struct send_piece *piece = &send->piece[number];
        struct send_job *job = piece->job;
        struct udp_tx_item item;
        uint32_t first = piece->train.first;
        int code = send_make_item(send, job, send_job_address(job, send_job_index(job, first)), &item);
        for (; piece->again < piece->train.count; piece->again++) {
            if (!udp_tx_room(send->tx))
                return false;
            uint32_t n = piece->again;
            item.data = send_train_datagram(&piece->train, n);
            item.length = send_train_length(&piece->train, n);
            item.token = number | (uint64_t)(n + 1) << 32;
            code = code ? code : udp_tx_push(send->tx, &item);
            if (ur_unlikely(code)) {   /* does not happen: the train had the same address and length */
                give_result(send, job, first + n, 1, code);
                piece->left--;
            }
        }
        send->again_first = piece->next;
        if (ur_unlikely(!piece->left))
            free_piece(send, piece);
    }
    return true;
}

/* Cuts the next train as large as its destination takes trains. Returns the destination. */
static const struct udpring_address *cut_next(struct udpring_send *send, const struct send_job *job, struct send_train *train)
{
    const struct udpring_address *to = send_job_address(job, send_job_index(job, job->at));
    bool trains = send->trains && !(job->face->flags & UDPRING_SEND_PLAIN);
    send_job_cut(job, trains ? udp_tx_segments_max() : 1, SEND_TRAIN_BYTES, train);
    if (train->count > 1 && !send_path_takes(&send->paths, to, train->segment))
        send_job_cut(job, 1, 0, train);
    return to;
}

/* Sends single datagrams without slots: `train` and those behind it. It sends only while no send is pending, so none is overtaken.
 * sendmmsg(2) costs less than operations of a ring (docs/performance.md). False: none was sent, push the first one as usual. */
static bool send_singles(struct udpring_send *send, struct send_job *job, const struct udpring_address *to,
                         struct send_train train)
{
    struct udp_tx_singles *singles = &send->singles;
    struct udp_tx_direct direct = {0};
    uint32_t first = train.first, ended;
    uint64_t flat = job->flat;
    if (!udp_tx_idle(send->tx))
        return false;
    singles->count = 0;
    while (train.count == 1 &&
           udp_tx_singles_add(send->tx, singles, send_train_datagram(&train, 0), train.length, to)) {
        send_job_advance(job, &train);
        if (job->at == job->planned)
            break;
        to = cut_next(send, job, &train);
    }
    ended = udp_tx_send_singles(send->tx, singles, &direct);
    udp_tx_count_direct(send->tx, &direct);
    for (uint32_t i = 0; i < ended; i++) {
        give_result(send, job, first + i, 1, singles->result[i]);
        flat += singles->piece[i].iov_len;
    }
    job->at = first + ended;   /* those that did not end come next */
    if (!job->vector)
        job->flat = flat;
    return ended > 0;
}

/* Pushes the next train of a job. False: not possible now. */
static bool push_train(struct udpring_send *send, struct send_job *job)
{
    if (!udp_tx_room(send->tx) || !send->free_count)
        return false;
    if (job->at == job->planned) {
        send_job_plan(job, &send->plan);
        if (send->fan && send_fan_out(send, job))
            return true;
    }
    struct send_train train;
    const struct udpring_address *to = cut_next(send, job, &train);
    uint32_t segment = train.count > 1 ? train.segment : 0;
    if (send_path_must_wait(&send->paths, to, segment, job->face->flags & UDPRING_SEND_ORDERED))
        return false;
    if (!job->control && train.count == 1 && send_singles(send, job, to, train))
        return true;
    struct udp_tx_item item;
    int code = send_make_item(send, job, to, &item);
    send_job_advance(job, &train);
    uint32_t number = send->free[send->free_count - 1];
    item.data = train.data;
    item.vector = train.vector;
    item.vector_count = train.vectors;
    item.length = train.length;
    item.segment_size = segment;
    item.token = number;
    if (!code)
        code = udp_tx_push(send->tx, &item);
    if (ur_unlikely(code)) {
        give_result(send, job, train.first, train.count, code);
        return true;
    }
    send->free_count--;
    send->piece[number] = (struct send_piece){
        .job = job, .train = train, .path = segment ? send_path_sent(&send->paths, to, segment) : SEND_PATH_NONE};
    return true;
}

/* Pushes while there is room. A datagram that can never be sent gets its result at once. */
static void push_jobs(struct udpring_send *send)
{
    if (!push_again(send))
        return;
    while (send->first) {
        struct send_job *job = send->first;
        while (job->at < job->face->count)
            if (!push_train(send, job))
                return;
        send->first = job->next;
        if (job->face->ended == job->face->count)
            send_end_job(send, job);
    }
}

/* Appends a refused train to the list of trains to send again. */
static void refuse_train(struct udpring_send *send, struct send_piece *piece, int32_t error)
{
    struct send_job *job = piece->job;
    uint32_t number = (uint32_t)(piece - send->piece);
    send_path_refused(&send->paths, send_job_address(job, send_job_index(job, piece->train.first)),
                      piece->train.segment, error);
    piece->again = 0;
    piece->left = piece->train.count;
    piece->next = SEND_NO_PIECE;
    if (send->again_first == SEND_NO_PIECE)
        send->again_first = number;
    else
        send->piece[send->again_last].next = number;
    send->again_last = number;
}

static void take_result(struct udpring_send *send, const struct udp_tx_done *done)
{
    struct send_piece *piece = &send->piece[(uint32_t)done->token];
    uint32_t single = (uint32_t)(done->token >> 32);
    int32_t result = done->result < 0 ? done->result : 0;
    if (ur_unlikely(single)) {
        give_result(send, piece->job, piece->train.first + single - 1, 1, result);
        if (!--piece->left)
            free_piece(send, piece);
        return;
    }
    if (piece->path != SEND_PATH_NONE)
        send_path_ended(&send->paths, piece->path, piece->train.segment, !result);
    if (ur_unlikely(done->flags & UDP_TX_SPLIT)) {
        refuse_train(send, piece, result);
        return;
    }
    give_result(send, piece->job, piece->train.first, piece->train.count, result);
    free_piece(send, piece);
}

/* Reaps all ended sends. Returns how many. */
static unsigned reap_all(struct udpring_send *send)
{
    UR_UNINITIALIZED struct udp_tx_done done[REAP];
    unsigned count, all = 0;
    do {
        count = udp_tx_reap(send->tx, done, REAP);
        for (unsigned i = 0; i < count; i++)
            take_result(send, &done[i]);
        all += count;
    } while (count == REAP);
    return all;
}

int send_advance(struct udpring_send *send)
{
    unsigned ended;
    int code;
    do {
        push_jobs(send);
        code = udp_tx_flush(send->tx);
        ended = reap_all(send);
    } while (ended && (send->first || send->again_first != SEND_NO_PIECE));
    return code;
}

/* Selects the pieces that udp_tx_abandon_if() ends. */
struct abandoned {
    const struct udpring_send *send;
    const struct udpring_send_job *face;   /* NULL: all */
};

static bool is_abandoned(void *context, uint64_t token)
{
    const struct abandoned *abandoned = context;
    return !abandoned->face || abandoned->send->piece[(uint32_t)token].job->face == abandoned->face;
}

/* Ends the remaining datagrams of refused trains of this job. */
static void abandon_again(struct udpring_send *send, const struct udpring_send_job *face, int32_t result)
{
    uint32_t *link = &send->again_first, kept = SEND_NO_PIECE;
    while (*link != SEND_NO_PIECE) {
        struct send_piece *piece = &send->piece[*link];
        if (face && piece->job->face != face) {
            kept = *link;
            link = &piece->next;
            continue;
        }
        *link = piece->next;
        uint32_t count = piece->train.count - piece->again;
        give_result(send, piece->job, piece->train.first + piece->again, count, result);
        piece->again += count;
        piece->left -= count;
        if (!piece->left)
            free_piece(send, piece);
    }
    send->again_last = kept;
}

void send_drop(struct udpring_send *send, const struct udpring_send_job *face, int32_t result)
{
    struct abandoned abandoned = {send, face};
    (void)udp_tx_abandon_if(send->tx, result, is_abandoned, &abandoned);
    (void)reap_all(send);
    abandon_again(send, face, result);
    struct send_job **link = &send->first, *kept = NULL;
    while (*link) {
        struct send_job *job = *link;
        if (face && job->face != face) {
            kept = job;
            link = &job->next;
            continue;
        }
        *link = job->next;
        give_result(send, job, job->at, job->face->count - job->at, result);
        job->at = job->face->count;
        if (job->face->ended == job->face->count)
            send_end_job(send, job);
    }
    send->last = kept;
}

void send_give_up(struct udpring_send *send, int32_t result)
{
    for (uint32_t i = 0; i < send->pieces; i++) {
        struct send_piece *piece = &send->piece[i];
        if (!piece->job)
            continue;
        struct udpring_send_job *face = piece->job->face;
        uint32_t left = piece->left ? piece->left : piece->train.count;
        for (uint32_t n = 0; n < piece->train.count; n++) {
            int32_t *one = &face->results[send_job_index(piece->job, piece->train.first + n)];
            *one = *one ? *one : result;   /* it is unknown which datagrams of a refused train were sent */
        }
        face->failed += left;
        face->ended += left;
    }
}

/* A job without a face is already in the spare list: several pieces share a job, and it may also be queued. */
static void forget(struct udpring_send *send, struct send_job *job)
{
    if (!job || !job->face)
        return;
    job->face = NULL;
    job->next = send->spare;
    send->spare = job;
}

void send_forget_jobs(struct udpring_send *send, bool kept)
{
    for (uint32_t i = 0; kept && i < send->pieces; i++)
        if (send->piece[i].job)
            send->piece[i].job->face = NULL;
    for (struct send_job *job = send->first, *next; job; job = next) {
        next = job->next;
        forget(send, job);
    }
    for (uint32_t i = 0; !kept && i < send->pieces; i++)
        forget(send, send->piece[i].job);
    send->first = NULL;
}
