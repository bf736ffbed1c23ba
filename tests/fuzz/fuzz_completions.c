/* Completions that no kernel would send: any results and flags, any buffer contents, operations that ended long ago or never
 * existed, in any order. Each operation must end once, and returned memory must be readable by the caller. The first byte
 * chooses among four users of the completion queue: the general ring (harvest.c), the two receive tiers (rx_multishot.c,
 * rx_pool.c), and the send side (tx_uring.c); or the tier without a ring. */
#include <netinet/in.h>
#include <poll.h>
#include <unistd.h>

#include "input.h"
#include "model_kernel.h"
#include "model_threads.h"
#include "model_uring.h"
#include "udp/rx.h"
#include "udp/tx.h"
#include "uring/abi.h"
#include "uring/ops.h"

enum { HELD_MAX = 64, OPERATIONS = 16 };

static volatile uint8_t seen;

/* Reads every byte, so that the address sanitiser finds invalid memory. */
static void touch(const uint8_t *bytes, uint32_t length)
{
    for (uint32_t i = 0; bytes && i < length; i++)
        seen ^= bytes[i];
}

static void stray(struct input *input)
{
    uint8_t choice = input_u8(input);
    uint64_t any = (uint64_t)input_u32(input) << 32 | input_u16(input);
    uint64_t user_data = choice & 1 ? uring_ended(0) : UR_USER_DATA(choice & 2 ? UR_KIND_MESSAGE : choice >> 2, any >> 32, any & 0xff);
    for (uint32_t i = 0; uring_in_flight(0, i); i++)
        if (uring_in_flight(0, i)->user_data == user_data)
            return;
    if (user_data)
        uring_post_stray(0, user_data, (int32_t)any, IORING_CQE_F_MORE | (choice & 4 ? IORING_CQE_F_NOTIF : 0));
}

/* The layout before the payload of a buffer that a multishot receive filled. */
static void fill_buffer(struct input *input, const struct io_uring_buf *buffer)
{
    struct io_uring_recvmsg_out out;
    uint8_t choice = input_u8(input);
    input_copy(input, &out, sizeof(out));
    if (choice & 1)
        out.namelen = sizeof(struct sockaddr_in6);
    if (choice & 2)
        out.controllen %= 300;
    memcpy((void *)(uintptr_t)buffer->addr, &out, sizeof(out));
    uint32_t more = choice >> 2;
    input_copy(input, (uint8_t *)(uintptr_t)buffer->addr + sizeof(out), more < 48 ? more : 48);
}

static int32_t any_result(struct input *input)
{
    static const int errors[] = {EAGAIN, ENOBUFS, ECANCELED, EINTR, ENOMEM, ECONNREFUSED, EINVAL, EMSGSIZE, EACCES, EIO, ENETUNREACH, EBADF};
    uint8_t choice = input_u8(input);
    if (choice & 1)
        return -errors[choice % UR_ARRAY_LENGTH(errors)];
    return choice & 2 ? (int32_t)input_u32(input) : (int32_t)input_u16(input);
}

static void complete_one(struct input *input, bool buffers)
{
    uint8_t which = input_u8(input), how = input_u8(input);
    const struct io_uring_sqe *sqe = uring_in_flight(0, which % 32);
    if (!sqe)
        return;
    int32_t result = any_result(input);
    uint32_t flags = how & 1 ? IORING_CQE_F_MORE : 0;
    if (how & 2 && buffers) {
        const struct io_uring_buf *buffer = uring_take_buffer(0, sqe);
        if (!buffer)
            return;
        flags |= IORING_CQE_F_BUFFER | (uint32_t)buffer->bid << IORING_CQE_BUFFER_SHIFT;
        if (sqe->opcode == IORING_OP_RECVMSG)
            fill_buffer(input, buffer);
    }
    if (sqe->opcode == IORING_OP_RECVMSG && !(sqe->ioprio & IORING_RECV_MULTISHOT)) {
        struct msghdr *header = (struct msghdr *)(uintptr_t)sqe->addr;   /* the kernel writes no more than fits */
        header->msg_namelen = input_u8(input) % 64;
        header->msg_controllen = header->msg_controllen ? input_u16(input) % (header->msg_controllen + 1) : 0;
        header->msg_flags = how;
        if (header->msg_controllen)
            input_copy(input, header->msg_control, header->msg_controllen < 64 ? header->msg_controllen : 64);
        flags = 0;   /* a single receive completes once */
    }
    uring_complete(0, which % 32, result, flags);
}

/* ---- the general ring ---- */

/* Any operation with any arguments. Those with memory of the caller get some that lives as long as the ring. */
static void queue_operation(struct input *input, struct udpring_ring *ring)
{
    static const uint32_t opcodes[] = {UDPRING_OP_NOP, UDPRING_OP_READ, UDPRING_OP_RECVMSG, UDPRING_OP_READ_MULTISHOT, UDPRING_OP_SENDMSG,
                                       UDPRING_OP_POLL_ADD, UDPRING_OP_TIMEOUT, UDPRING_OP_WRITE};
    static uint8_t bytes[64];
    uint8_t choice = input_u8(input), length = input_u8(input);
    uint32_t operation = choice & 64 ? input_u8(input) % (UDPRING_OP_COUNT + 1) : opcodes[choice & 7];
    bool legacy = operation == UDPRING_OP_GIVE_BUFFERS || operation == UDPRING_OP_REMOVE_BUFFERS;
    uint64_t extra = legacy ? 2 << 16 : choice & 32 ? 1 << 16 : 0, pin = choice & 128;
    int32_t fd = operation == UDPRING_OP_GIVE_BUFFERS ? length & 7 : legacy ? 8 : KERNEL_FD;
    bool message = operation == UDPRING_OP_SENDMSG || operation == UDPRING_OP_RECVMSG || operation == UDPRING_OP_RECVMSG_MULTISHOT;
    uint32_t size = choice & 16 ? sizeof(bytes) : 0;
    bytes[8] = 0;
    if (message)
        (void)udpring_ring_put_message(ring, operation, 0, KERNEL_FD, 0, 0, operation == UDPRING_OP_RECVMSG ? length : 0, 0, extra, bytes,
                                       size, 0, NULL, 0, NULL, operation == UDPRING_OP_RECVMSG && choice & 8 ? 64 : 0);
    else
        (void)udpring_ring_put(ring, operation, 0, fd, legacy ? length >> 4 : choice & 8 ? choice : 0, 0, legacy ? 0 : length, 0, extra,
                               bytes, size, pin);
    if (operation == UDPRING_OP_SEND_GROUP) {
        int32_t code = udpring_ring_fill(ring, 1, bytes, length);
        CLAIM(code == 0 || code == -ENOBUFS || (code == -EMSGSIZE && (!length || length > 64)), "%u bytes to send: %d", length, code);
    }
    (void)udpring_ring_submit(ring);
    uint64_t pins[UDPRING_HARVEST_MAX];
    uint32_t counts[UDPRING_HARVEST_MAX];
    int32_t released = udpring_ring_released(ring, pins, counts);
    CLAIM(released >= 0 && released <= UDPRING_HARVEST_MAX, "%d pins", released);
}

static void harvest(struct udpring_ring *ring, uint32_t max)
{
    struct udpring_completion shown[32];
    int32_t count = udpring_ring_harvest(ring, shown, max % 32 + 1);
    CLAIM(count >= 0 && count <= 32, "%d completions", count);
    for (int32_t i = 0; i < count; i++) {
        touch(shown[i].data, shown[i].length);
        touch(shown[i].name, shown[i].name_length);
        touch(shown[i].control, shown[i].control_length);
        CLAIM(UR_KIND(shown[i].user_data) != UR_KIND_PYTHON || shown[i].flags & IORING_CQE_F_MORE ||
                  !shown[i].data || shown[i].length <= UDPRING_OPERATION_BYTES_MAX, "a completion of %u bytes", shown[i].length);
        for (int32_t k = 0; k < i; k++)
            CLAIM(shown[k].user_data != shown[i].user_data || UR_KIND(shown[i].user_data) != UR_KIND_PYTHON ||
                      shown[k].flags & IORING_CQE_F_MORE, "operation %lx ends twice", shown[i].user_data);
    }
}

/* The same completions as numbers. */
static void harvest_columns(struct input *input, struct udpring_ring *ring)
{
    uint64_t tickets[32];
    int32_t results[32];
    uint32_t flags[32];
    uint8_t how = input_u8(input);
    struct udpring_results out = {tickets, results, flags, how % 16 + 1};
    int32_t count = how & 16 ? udpring_ring_turn(ring, 0, 0, &out) : udpring_ring_harvest_columns(ring, &out);
    CLAIM(count <= (int32_t)out.room, "%d completions in %u places", count, out.room);
    for (int32_t i = 0; i < count; i++) {
        CLAIM(UR_KIND(tickets[i]) != UR_KIND_PYTHON || flags[i] & IORING_CQE_F_MORE || !udpring_ring_holds(ring, tickets[i]),
              "operation %lx has ended and is held", tickets[i]);
        for (int32_t k = 0; k < i; k++)
            CLAIM(tickets[k] != tickets[i] || UR_KIND(tickets[i]) != UR_KIND_PYTHON || flags[k] & IORING_CQE_F_MORE,
                  "operation %lx ends twice", tickets[i]);
    }
}

/* Operations without memory, or within registered buffers, of which there are none. */
static void queue_many(struct input *input, struct udpring_ring *ring)
{
    static const uint32_t operations[] = {UDPRING_OP_NOP, UDPRING_OP_POLL_ADD, UDPRING_OP_TIMEOUT, UDPRING_OP_READ_FIXED,
                                          UDPRING_OP_READ, UDPRING_OP_WRITE, UDPRING_OP_READ_GROUP, UDPRING_OP_STATX};
    static uint8_t bytes[64];
    uint64_t tickets[8], starts[8];
    uint32_t lengths[8];
    uint8_t choice = input_u8(input), how = input_u8(input);
    input_copy(input, starts, sizeof(starts));
    input_copy(input, lengths, sizeof(lengths));
    struct udpring_columns columns = {
        .operation = operations[choice & 7], .count = how % 9, .file = KERNEL_FD, .length = choice >> 4, .tickets = tickets,
        .starts = how & 16 ? starts : NULL, .lengths = how & 32 ? lengths : NULL, .offs = how & 64 ? starts : NULL,
        .memory = choice & 8 ? bytes : NULL, .size = choice & 8 ? sizeof(bytes) : 0,
    };
    int32_t queued = udpring_ring_put_many(ring, &columns, choice & 8);
    CLAIM(queued <= (int32_t)columns.count, "%d operations queued of %u", queued, columns.count);
    for (int32_t i = 0; i < queued; i++)
        CLAIM(udpring_ring_holds(ring, tickets[i]), "operation %lx is queued and unknown", tickets[i]);
    (void)udpring_ring_submit(ring);
}

/* The kernel's queue bounds what can be waited for, and no time is longer than for ever. */
static void wait_for(struct udpring_ring *ring, uint8_t how)
{
    uint32_t most = how & 1 ? 100000 : how >> 3;
    int code = udpring_ring_wait(ring, how & 2 ? 0 : most, how & 2 ? INT64_MAX : 1000000);
    CLAIM(code <= 0 && code != -EINVAL, "a wait is answered by %d", code);
}

/* A ring as asked for, of sizes that are corrected or refused, or one that is enabled later. NULL: it is refused. */
static struct udpring_ring *open_general(uint8_t how)
{
    struct udpring_reason why = {""};
    struct udpring_ring *ring;
    struct udpring_ring_info info;
    struct udpring_ring_options options = {.entries = OPERATIONS, .cq_entries = 32, .flags_deny = how & 8 ? IORING_SETUP_DEFER_TASKRUN : 0};
    uint32_t sq = OPERATIONS, cq = 32;
    switch (how & 7) {
    case 4: options.entries = 3, options.cq_entries = 0, sq = 8, cq = 32; break;
    case 5: options.entries = 100000, options.cq_entries = 1 << 20, options.slots = 8, sq = 32768, cq = 65536; break;
    case 6: options.flags_want = UDPRING_SETUP_R_DISABLED; break;
    case 7: how & 16 ? (void)(uring_failing.error = EPERM, uring_failing.enters = 1, uring_failing.after = false)
                     : (void)(options.cq_entries = OPERATIONS - 1); break;
    default: break;
    }
    int code = udpring_ring_open(&ring, &options, &why);
    if ((how & 7) == 7) {
        CLAIM(code == (how & 16 ? -EPERM : -EINVAL) && !ring && why.text[0], "a ring that cannot be is answered by %d", code);
        CLAIM(!uring_in_flight(0, 0), "a ring that was refused is open");
        return NULL;
    }
    CLAIM(code == 0 && ring, "%s", why.text);
    if (options.flags_want & UDPRING_SETUP_R_DISABLED) {
        CLAIM(udpring_ring_submit(ring) == -EBADFD && udpring_ring_wait(ring, 0, 0) == -EBADFD, "a ring is used before it is enabled");
        kernel.fault.after = how & 16 ? 1 : 0;
        kernel.fault.error = ENOMEM;
        if (how & 16)
            CLAIM(udpring_ring_enable(ring) == -ENOMEM, "a ring is enabled without memory");
        CLAIM(udpring_ring_enable(ring) == 0 && udpring_ring_enable(ring) == -EINVAL, "a ring is enabled once");
    }
    CLAIM(udpring_ring_info(ring, &info) == 0 && info.sq_entries == sq && info.cq_entries == cq, "a ring of %u and %u entries, not %u and %u",
          info.sq_entries, info.cq_entries, sq, cq);
    CLAIM(!(info.setup_flags & (options.flags_deny | IORING_SETUP_R_DISABLED)), "a ring of flags %x", info.setup_flags);
    return ring;
}

static void run_general(struct input *input, uint8_t how)
{
    struct udpring_reason why;
    struct udpring_ring *ring = open_general(how);
    if (!ring)
        return;
    CLAIM(udpring_ring_provide(ring, 0, 8, 64, UDPRING_GROUP_COPIES, NULL, &why) == 0, "%s", why.text);
    CLAIM(udpring_ring_provide(ring, 1, 8, 64, UDPRING_GROUP_SENDS, NULL, &why) == 0, "%s", why.text);
    CLAIM(udpring_ring_provide(ring, 2, 8, 64, UDPRING_GROUP_LEGACY, NULL, &why) == 0, "%s", why.text);
    while (input_left(input, 2)) {
        uint8_t operation = input_u8(input);
        switch (operation & 7) {
        case 0: case 1: queue_operation(input, ring); break;
        case 2: case 3: complete_one(input, true); break;
        case 4: stray(input); break;
        case 5:
            operation & 8 ? operation & 16 ? queue_many(input, ring) : harvest_columns(input, ring)
                          : (void)udpring_ring_harvest(ring, NULL, 0);
            break;
        case 6: wait_for(ring, operation >> 3); break;
        default: harvest(ring, operation >> 3); break;
        }
    }
    (void)udpring_ring_close(ring);
    CLAIM(udpring_ring_enable(ring) == -EBADF && udpring_ring_submit(ring) == -EBADF, "a ring that is closed is used");
    udpring_ring_free(ring);
}

/* ---- receiving ---- */

/* Calls that are not allowed are refused and change nothing. */
static void misuse_receive(struct udp_rx *rx, const struct udp_rx_options *options, uint8_t choice)
{
    struct udp_rx_options none = *options, many = *options;
    struct udpring_reason why = {""};
    struct udp_rx *other;
    uint64_t stale = udp_rx_stats(rx)->stale;
    none.sockets = 0;
    many.sockets = 3;
    CLAIM(udp_rx_open(&other, choice & 1 ? &none : &many, &why) == -EINVAL && !other && why.text[0], "a ring of no socket, or of three");
    CLAIM(udp_rx_watch(rx, options->fd[0], POLLIN, 16) == -EINVAL && udp_rx_watch(rx, -1, POLLIN, 1) == -EINVAL, "a watch of nothing");
    udp_rx_release(rx, 999);   /* like a slot released twice */
    CLAIM(udp_rx_stats(rx)->stale == stale + 1, "a slot that nobody has is given back");
}

static void run_receive(struct input *input, uint32_t tier)
{
    struct udp_rx_options options = {.tier = tier, .slots = 8, .slot_bytes = 256, .sockets = 2,
                                     .fd = {kernel_open(KERNEL_UDP, AF_INET), kernel_open(KERNEL_UDP, AF_INET6)}};
    struct udpring_reason why;
    struct udp_rx *rx;
    struct udpring_packet held[HELD_MAX], packets[8];
    uint32_t held_count = 0;
    CLAIM(udp_rx_open(&rx, &options, &why) == 0, "%s", why.text);
    while (input_left(input, 2)) {
        uint8_t operation = input_u8(input);
        switch (operation & 7) {
        case 0: operation & 8 ? misuse_receive(rx, &options, operation >> 4) : (void)udp_rx_wait(rx, 0); break;
        case 1: case 2: case 3: complete_one(input, true); break;
        case 4: stray(input); break;
        case 5: {
            bool twice = !udp_rx_watch(rx, options.fd[0], POLLOUT, operation >> 4);
            CLAIM(!twice || udp_rx_watch(rx, options.fd[1], POLLOUT, operation >> 4) == -EBUSY, "a token is out twice");
            break;
        }
        case 6:
            if (held_count)
                udp_rx_release(rx, held[--held_count].slot);
            break;
        default: {
            unsigned count = udp_rx_harvest(rx, packets, held_count + 8 <= HELD_MAX ? 8 : 0);
            for (unsigned i = 0; i < count; i++) {
                CLAIM(packets[i].length <= options.slot_bytes, "%u bytes in a slot of %u", packets[i].length, options.slot_bytes);
                CLAIM(packets[i].slot < 16, "slot %u", packets[i].slot);
                touch(packets[i].data, packets[i].length);
                for (uint32_t k = 0; k < held_count; k++)
                    CLAIM(held[k].slot != packets[i].slot, "slot %u is handed out twice", packets[i].slot);
                held[held_count++] = packets[i];
            }
        }
        }
        (void)udp_rx_watched(rx);
    }
    udp_rx_close(rx);
}

/* ---- sending ---- */

/* Without a ring the kernel answers at once. */
static int32_t answer;

static int32_t answered(const struct kernel_send *send)
{
    return answer ? answer : (int32_t)send->length;
}

static void answer_next(struct input *input, int fd)
{
    uint8_t choice = input_u8(input);
    answer = choice & 1 ? any_result(input) : 0;
    if (answer == -EAGAIN || answer == -EINTR || answer == -ECANCELED)
        answer = 0;   /* these would never end */
    if (answer < -4095)
        answer = -EIO;   /* the C library turns these values only into an errno */
    if (choice == 0xff && kernel_file(fd))
        close(fd);
}

/* Calls that are not allowed are refused and take no slot. */
static void misuse_send(struct udp_tx *tx, const struct udp_tx_options *options, uint8_t choice)
{
    static const uint8_t byte;
    struct udp_tx_item item = {.data = &byte, .length = 1, .destination = {.family = AF_INET, .port = 1}};
    struct udp_tx_options wrong = *options;
    struct udpring_reason why = {""};
    struct udp_tx *other;
    uint32_t room = udp_tx_room(tx);
    int right = -EINVAL;
    switch (choice & 7) {
    case 0: item.socket_index = 2; break;
    case 1: item.segment_size = 70000; break;
    case 2: item.length = 300, item.segment_size = 1; break;
    case 3: item.destination.family = AF_UNIX, right = -EAFNOSUPPORT; break;
    case 4: item.destination.family = AF_INET6, right = -EAFNOSUPPORT; break;
    case 5: item.length = 70000, right = -EMSGSIZE; break;
    default:
        wrong.sockets = choice & 8 ? 0 : 3;
        CLAIM(udp_tx_open(&other, &wrong, &why) == -EINVAL && !other && why.text[0], "a ring of no socket, or of three");
        return;
    }
    int code = udp_tx_push(tx, &item);
    CLAIM(code == right && udp_tx_room(tx) == room, "a wrong send is answered by %d", code);
}

static void run_send(struct input *input, uint32_t tier)
{
    struct udp_tx_options options = {.tier = tier, .slots = OPERATIONS, .sockets = 2,
                                     .fd = {kernel_open(KERNEL_UDP, AF_INET), kernel_open(KERNEL_UDP, AF_INET6)}};
    struct udpring_reason why;
    struct udp_tx *tx;
    static uint8_t payload[4096];
    bool pending[256] = {false};
    struct udp_tx_done done[OPERATIONS];
    CLAIM(udp_tx_open(&tx, &options, &why) == 0, "%s", why.text);
    uint32_t out = 0;
    while (input_left(input, 2)) {
        uint8_t operation = input_u8(input);
        switch (operation & 3) {
        case 0: {
            uint8_t token = input_u8(input), choice = input_u8(input);
            struct udp_tx_item item = {.data = payload, .length = choice * 16u, .segment_size = choice & 1 ? 100 : 0, .token = token,
                                       .destination = {.family = choice & 2 ? AF_INET6 : AF_INET, .port = 1}, .socket_index = choice >> 1 & 1,
                                       .source = {.family = choice & 4 ? AF_INET : 0, .ip = {10}}};
            if (!pending[token] && udp_tx_push(tx, &item) == 0) {
                pending[token] = true;
                out++;
            }
            break;
        }
        case 1: operation & 4 ? misuse_send(tx, &options, operation >> 4) : (void)udp_tx_flush(tx); break;
        case 2:
            if (tier == UDPRING_TIER_MMSG)
                answer_next(input, options.fd[0]);
            else
                operation & 4 ? stray(input) : complete_one(input, false);
            break;
        default: {
            unsigned count = udp_tx_reap(tx, done, OPERATIONS);
            for (unsigned i = 0; i < count; i++) {
                CLAIM(done[i].token < 256 && pending[done[i].token], "token %lu ends and was not pending", done[i].token);
                pending[done[i].token] = false;
                out--;
            }
            CLAIM(udp_tx_pending(tx) == out, "%u pending, not %u", udp_tx_pending(tx), out);
        }
        }
    }
    (void)udp_tx_close(tx);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
    struct input input = {.bytes = bytes, .length = length};
    kernel_reset();
    uring_reset();
    kernel.active = kernel.has_uring = uring_by_hand = true;
    threads_now_ns = 1000000000000u;
    kernel.send = answered;
    answer = 0;
    uint8_t who = input_u8(&input);
    bool mmsg = (who & 0xf0) == 0xf0;
    switch (who & 3) {
    case 0: run_general(&input, who >> 2); break;
    case 1: run_receive(&input, mmsg ? UDPRING_TIER_MMSG : UDPRING_TIER_URING_MULTISHOT); break;
    case 2: run_receive(&input, UDPRING_TIER_URING_POOL); break;
    default: run_send(&input, mmsg ? UDPRING_TIER_MMSG : UDPRING_TIER_URING_POOL); break;
    }
    for (int i = 0; i < KERNEL_FDS; i++)
        if (kernel.file[i].kind == KERNEL_UDP)
            close(KERNEL_FD + i);
    kernel_reset();
    return 0;
}
