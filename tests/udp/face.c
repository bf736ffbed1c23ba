/* Drives the C interface of native/udp where Python cannot: face SCENARIO TIER. Exits 0, or prints the failed check.
 * test_face.py builds it with the room's sources, under the sanitisers. */
#include "base.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "udp/cmsg.h"
#include "udp/rx.h"
#include "udp/socket.h"
#include "udp/socket_split.h"
#include "udp/tx.h"
#include "uring/graveyard.h"
#include "uring/ring.h"

#define SECOND 1000000000ll

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            printf("%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

/* Every system call of the rooms comes here: linked with --wrap=syscall. */
static unsigned enters;
long __real_syscall(long number, ...);
long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f);

long __wrap_syscall(long number, long a, long b, long c, long d, long e, long f)
{
    enters += number == SYS_io_uring_enter;
    return __real_syscall(number, a, b, c, d, e, f);
}

static uint32_t tier;
static struct udpring_reason why;

/* A node's two sockets and their port. */
struct end {
    int fd[2];
    uint16_t port;
};

static struct end open_end(void)
{
    struct end end = {.port = 0};
    int code = udp_socket_pair(end.fd, &end.port, 0, &why);
    if (code)
        printf("udp_socket_pair: %d %s\n", code, why.text);
    MUST(!code && end.fd[0] >= 0 && end.fd[1] >= 0 && end.port);
    return end;
}

static void close_end(struct end *end)
{
    close(end->fd[0]);
    close(end->fd[1]);
}

static struct udp_rx *open_rx(const struct end *end, uint32_t slots)
{
    struct udp_rx_options options = {
        .tier = tier, .slots = slots, .slot_bytes = 4096, .sockets = 2, .fd = {end->fd[0], end->fd[1]}};
    struct udp_rx *rx;
    int code = udp_rx_open(&rx, &options, &why);
    if (code)
        printf("udp_rx_open: %d %s\n", code, why.text);
    MUST(!code);
    MUST(udp_rx_tier(rx) == tier && !*udp_rx_tier_reason(rx));
    return rx;
}

static struct udp_tx *open_tx(const struct end *end, uint32_t slots)
{
    struct udp_tx_options options = {.tier = tier, .slots = slots, .sockets = 2, .fd = {end->fd[0], end->fd[1]}};
    struct udp_tx *tx;
    int code = udp_tx_open(&tx, &options, &why);
    if (code)
        printf("udp_tx_open: %d %s\n", code, why.text);
    MUST(!code);
    return tx;
}

static struct udpring_address loopback(int family, uint16_t port)
{
    struct udpring_address address = {.family = (uint16_t)family, .port = port};
    if (family == AF_INET) {
        address.ip[0] = 127;
        address.ip[3] = 1;
    } else {
        address.ip[15] = 1;
    }
    return address;
}

static struct udp_tx_item item_to(const char *data, int family, uint16_t port)
{
    return (struct udp_tx_item){
        .data = (const uint8_t *)data, .length = (uint32_t)strlen(data), .destination = loopback(family, port),
        .socket_index = family == AF_INET6};
}

/* Receives exactly `count` packets, each within a second. */
static void harvest(struct udp_rx *rx, struct udpring_packet *packets, unsigned count)
{
    unsigned got = 0;
    while (got < count) {
        int code = udp_rx_wait(rx, SECOND);
        if (code && code != -EINTR)
            printf("udp_rx_wait: %d with %u of %u\n", code, got, count);
        MUST(!code || code == -EINTR);
        got += udp_rx_harvest(rx, packets + got, count - got);
    }
}

static void plain_send(int fd, const char *data, const struct udpring_address *to, int family)
{
    struct sockaddr_storage name;
    socklen_t length = udp_address_to_sockaddr(to, family, &name);
    MUST(sendto(fd, data, strlen(data), 0, (struct sockaddr *)&name, length) == (ssize_t)strlen(data));
}

/* Two sockets in one ring: each packet names its socket and has the right addresses. */
static void two_sockets(void)
{
    struct end here = open_end(), there = open_end();
    struct udp_rx *rx = open_rx(&here, 16);
    struct udp_tx *tx = open_tx(&there, 0);
    for (uint64_t i = 0; i < 20; i++) {
        struct udp_tx_item item = item_to(i & 1 ? "six" : "four", i & 1 ? AF_INET6 : AF_INET, here.port);
        item.token = i;
        item.tos = 2;
        MUST(!udp_tx_push(tx, &item));
    }
    MUST(udp_tx_pending(tx) == 20 && !udp_tx_flush(tx));
    struct udp_tx_done done[20];
    MUST(udp_tx_reap(tx, done, 20) == 20 && udp_tx_pending(tx) == 0);
    struct udpring_packet packets[20];
    harvest(rx, packets, 20);
    unsigned six = 0;
    for (int i = 0; i < 20; i++) {
        int family = packets[i].socket_index ? AF_INET6 : AF_INET;
        struct udpring_address from = loopback(family, there.port), to = loopback(family, 0);
        MUST(!memcmp(packets[i].data, family == AF_INET6 ? "six" : "four", packets[i].length));
        MUST(!memcmp(&packets[i].source, &from, sizeof(from)) && !memcmp(&packets[i].local, &to, sizeof(to)));
        MUST(packets[i].tos == 2);
        six += packets[i].socket_index;
        udp_rx_release(rx, packets[i].slot);
    }
    MUST(six == 10);
    MUST(udp_tx_close(tx) && udp_rx_close(rx));
    close_end(&here);
    close_end(&there);
}

/* A watch ends a wait, fires once, and may be set again. Two watches on one descriptor. A descriptor that cannot be polled. */
static void watches(void)
{
    struct end here = open_end();
    struct udp_rx *rx = open_rx(&here, 8);
    struct udpring_packet packet;
    int event = eventfd(0, EFD_NONBLOCK);
    MUST(!udp_rx_watch(rx, event, POLLIN, 3));
    MUST(udp_rx_watch(rx, event, POLLIN, 3) == -EBUSY);
    MUST(udp_rx_watch(rx, event, POLLIN, 16) == -EINVAL && udp_rx_watch(rx, -1, POLLIN, 1) == -EINVAL);
    MUST(udp_rx_wait(rx, 1000000) == -ETIME && !udp_rx_harvest(rx, &packet, 1) && !udp_rx_watched(rx));
    MUST(!eventfd_write(event, 1));
    MUST(!udp_rx_wait(rx, SECOND) && !udp_rx_harvest(rx, &packet, 1));
    MUST(udp_rx_watched(rx) == 1u << 3 && !udp_rx_watched(rx));
    MUST(udp_rx_wait(rx, 1000000) == -ETIME);   /* still readable, but it fired already */
    MUST(!udp_rx_watch(rx, event, POLLIN, 3) && !udp_rx_wait(rx, SECOND));
    (void)udp_rx_harvest(rx, &packet, 1);
    MUST(udp_rx_watched(rx) == 1u << 3);

    MUST(!udp_rx_watch(rx, here.fd[0], POLLOUT, 0) && !udp_rx_watch(rx, here.fd[0], POLLOUT, 15));
    uint32_t fired = 0;
    for (int i = 0; i < 10 && fired != (1u | 1u << 15); i++) {
        (void)udp_rx_wait(rx, SECOND);
        (void)udp_rx_harvest(rx, &packet, 1);
        fired |= udp_rx_watched(rx);
    }
    MUST(fired == (1u | 1u << 15));

    int gone = eventfd(0, 0);
    close(gone);
    MUST(!udp_rx_watch(rx, gone, POLLIN, 5) && !udp_rx_wait(rx, SECOND));
    (void)udp_rx_harvest(rx, &packet, 1);
    MUST(udp_rx_watched(rx) == 1u << 5);
    MUST(!udp_rx_watch(rx, event, POLLPRI, 6));   /* pending at the close */
    MUST(udp_rx_close(rx));
    close(event);
    close_end(&here);
}

/* With all slots held nothing is received, which is counted. Released slots are used again. A double release is counted. */
static void starve(void)
{
    struct end here = open_end(), there = open_end();
    struct udp_rx *rx = open_rx(&here, 4);
    struct udpring_address to = loopback(AF_INET, here.port);
    struct udpring_packet packets[16], more;
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 6; i++)
            plain_send(there.fd[0], "data", &to, AF_INET);
        harvest(rx, packets, 4);
        uint64_t starved = udp_rx_stats(rx)->starved;
        for (int i = 0; i < 3; i++) {
            (void)udp_rx_wait(rx, 2000000);
            MUST(!udp_rx_harvest(rx, &more, 1));
        }
        MUST(udp_rx_stats(rx)->starved >= starved && udp_rx_stats(rx)->starved > (uint64_t)round);
        for (int i = 0; i < 4; i++)
            for (int j = i + 1; j < 4; j++)
                MUST(packets[i].slot != packets[j].slot);
        for (int i = 0; i < 4; i++)
            udp_rx_release(rx, packets[i].slot);
        uint64_t stale = udp_rx_stats(rx)->stale;
        udp_rx_release(rx, packets[0].slot);
        udp_rx_release(rx, 1000000);
        MUST(udp_rx_stats(rx)->stale == stale + 2);
        harvest(rx, packets, 2);
        MUST(packets[0].slot != packets[1].slot);
        udp_rx_release(rx, packets[0].slot);
        udp_rx_release(rx, packets[1].slot);
    }
    /* The other socket of the ring never lacked slots. */
    to = loopback(AF_INET6, here.port);
    plain_send(there.fd[1], "data", &to, AF_INET6);
    harvest(rx, packets, 1);
    MUST(packets[0].socket_index == 1);
    MUST(udp_rx_close(rx));
    close_end(&here);
    close_end(&there);
}

/* A local source address is used. Without a usable one, the packet is sent with the kernel's choice. */
static void sticky_source(void)
{
    struct end here = open_end(), there = open_end();
    struct udp_rx *rx = open_rx(&here, 16);
    struct udp_tx *tx = open_tx(&there, 0);
    struct udp_tx_done done[4];
    struct udpring_packet packets[4];
    struct udp_tx_item item = item_to("good", AF_INET, here.port);
    item.source = (struct udpring_address){.family = AF_INET, .ip = {127, 0, 0, 5}};
    MUST(!udp_tx_push(tx, &item));
    item.source.ip[0] = 203;   /* TEST-NET-3: no local address */
    item.token = 1;
    item.tos = 0xb8;
    MUST(!udp_tx_push(tx, &item));
    item = item_to("six", AF_INET6, here.port);
    item.source = (struct udpring_address){.family = AF_INET6, .ip = {0x20, 0x01, 0x0d, 0xb8, [15] = 9}};
    item.token = 2;
    MUST(!udp_tx_push(tx, &item));
    item.source = loopback(AF_INET6, 0);
    item.interface_index = 4000000;   /* an interface that is gone */
    item.token = 3;
    MUST(!udp_tx_push(tx, &item));
    MUST(!udp_tx_flush(tx) && udp_tx_reap(tx, done, 4) == 4);
    harvest(rx, packets, 4);
    unsigned dropped = 0;
    for (int i = 0; i < 4; i++) {
        MUST(done[i].result > 0);
        MUST((done[i].flags == UDP_TX_SOURCE_DROPPED) == (done[i].token != 0));
        dropped += done[i].flags == UDP_TX_SOURCE_DROPPED;
        if (!memcmp(packets[i].data, "good", 4) && packets[i].tos == 0)
            MUST(packets[i].source.ip[0] == 127 && packets[i].source.ip[3] == 5);
        else if (packets[i].source.family == AF_INET)
            MUST(packets[i].source.ip[3] == 1 && packets[i].tos == 0xb8);
    }
    MUST(dropped == 3 && udp_tx_stats(tx)->source_dropped == 3 && udp_tx_stats(tx)->packets == 4);
    MUST(udp_tx_close(tx) && udp_rx_close(rx));
    close_end(&here);
    close_end(&there);
}

/* Trains are sent as such. One with too many segments is refused at once. A route that takes none reports it. */
static void trains(void)
{
    static uint8_t data[65536];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7);
    struct end here = open_end(), there = open_end();
    struct udp_rx *rx = open_rx(&here, 64);
    struct udp_tx *tx = open_tx(&there, 0);
    struct udpring_packet packets[64];
    struct udp_tx_done done[4];
    struct udp_tx_item item = item_to("", AF_INET, here.port);
    item.data = data;
    item.length = 6300;
    item.segment_size = 1000;
    MUST(!udp_tx_push(tx, &item));
    item.length = item.segment_size = 1000;   /* a train of one is no train */
    MUST(!udp_tx_push(tx, &item));
    item.length = udp_tx_segments_max() * 20 + 1;
    item.segment_size = 20;
    MUST(udp_tx_push(tx, &item) == -EINVAL);
    item.length = 65528;
    item.segment_size = 0;
    MUST(udp_tx_push(tx, &item) == -EMSGSIZE);
    MUST(!udp_tx_flush(tx) && udp_tx_reap(tx, done, 4) == 2);
    MUST(done[0].result == 6300 && done[1].result == 1000 && udp_tx_stats(tx)->trains == 1);
    harvest(rx, packets, 8);
    for (int i = 0; i < 8; i++) {
        MUST(packets[i].length == (i == 6 ? 300 : 1000) && !packets[i].segment_size);
        MUST(!memcmp(packets[i].data, data + (i < 7 ? i * 1000 : 0), packets[i].length));
        udp_rx_release(rx, packets[i].slot);
    }
    int on = 1;
    MUST(!setsockopt(there.fd[0], SOL_SOCKET, SO_NO_CHECK, &on, sizeof(on)));   /* no checksum, so no segmentation */
    item.length = 3000;
    item.segment_size = 1000;
    MUST(!udp_tx_push(tx, &item) && !udp_tx_flush(tx) && udp_tx_reap(tx, done, 4) == 1);
    MUST(done[0].result < 0 && done[0].flags == UDP_TX_SPLIT);
    MUST(udp_tx_close(tx) && udp_rx_close(rx));
    close_end(&here);
    close_end(&there);
}

/* The ring of sends is full. Abandoned sends return with the given result. */
static void full_and_abandon(void)
{
    struct end here = open_end(), there = open_end();
    struct udp_tx *tx = open_tx(&there, 5);
    struct udp_tx_item item = item_to("x", AF_INET, here.port);
    struct udp_tx_done done[8];
    for (int round = 0; round < 3; round++) {
        for (item.token = 0; item.token < 5; item.token++)
            MUST(udp_tx_room(tx) == 5 - item.token && !udp_tx_push(tx, &item));
        MUST(udp_tx_push(tx, &item) == -ENOBUFS);
        MUST(udp_tx_abandon(tx, -ECANCELED) == 5 && udp_tx_reap(tx, done, 8) == 5 && udp_tx_room(tx) == 5);
        for (int i = 0; i < 5; i++)
            MUST(done[i].token == (uint64_t)i && done[i].result == -ECANCELED);
        MUST(!udp_tx_flush(tx) && !udp_tx_reap(tx, done, 8) && udp_tx_parked(tx) == -1);
    }
    item.socket_index = 2;
    MUST(udp_tx_push(tx, &item) == -EINVAL);
    item.socket_index = 0;
    item.destination.family = AF_INET6;
    MUST(udp_tx_push(tx, &item) == -EAFNOSUPPORT);
    item.destination.family = AF_UNIX;
    MUST(udp_tx_push(tx, &item) == -EAFNOSUPPORT);
    item = item_to("left behind", AF_INET, here.port);
    MUST(!udp_tx_push(tx, &item));   /* pending at the close */
    MUST(udp_tx_close(tx));
    close_end(&here);
    close_end(&there);
}

/* A close cancels thousands of operations in flight, repeatedly. The kernel may keep none. */
static void close_armed(void)
{
    struct end here = open_end(), there = open_end();
    struct udpring_address to = loopback(AF_INET, here.port);
    struct udpring_packet packets[64];
    for (int round = 0; round < 25; round++) {
        struct udp_rx *rx = open_rx(&here, 2048);
        for (int i = 0; i < 40; i++)
            plain_send(there.fd[0], "in the way", &to, AF_INET);
        MUST(!udp_rx_wait(rx, SECOND));
        if (round & 1)
            (void)udp_rx_harvest(rx, packets, 64);
        MUST(udp_rx_close(rx));
    }
    MUST(udp_rx_close(NULL) && udp_tx_close(NULL));
    MUST(!ur_graveyard_blocks());
    close_end(&here);
    close_end(&there);
}

/* Options out of range, and invalid descriptors. */
static void refusals(void)
{
    struct end here = open_end();
    struct udp_rx *rx;
    struct udp_tx *tx;
    struct udp_rx_options ro = {.tier = tier, .sockets = 1, .fd = {here.fd[0]}};
    struct udp_tx_options to = {.tier = tier, .sockets = 1, .fd = {here.fd[0]}};
    ro.sockets = to.sockets = 0;
    MUST(udp_rx_open(&rx, &ro, &why) == -EINVAL && !rx && udp_tx_open(&tx, &to, &why) == -EINVAL && !tx);
    ro.sockets = to.sockets = 3;
    MUST(udp_rx_open(&rx, &ro, &why) == -EINVAL && udp_tx_open(&tx, &to, NULL) == -EINVAL);
    ro.sockets = to.sockets = 1;
    ro.slots = 2049;
    to.slots = 4097;
    MUST(udp_rx_open(&rx, &ro, &why) == -EINVAL && udp_tx_open(&tx, &to, &why) == -EINVAL);
    ro.slots = to.slots = 0;
    ro.tier = to.tier = 4;
    MUST(udp_rx_open(&rx, &ro, &why) == -EINVAL && udp_tx_open(&tx, &to, &why) == -EINVAL);
    ro.tier = to.tier = tier;
    const int nobody = 900;   /* higher than the ring's own descriptor can be */
    to.fd[0] = ro.fd[0] = nobody;
    MUST(udp_tx_open(&tx, &to, &why) == -EBADF);
    MUST(!udp_rx_open(&rx, &ro, &why));   /* the wait reports it */
    int code = 0;
    struct udpring_packet packet;
    for (int i = 0; i < 3 && !code; i++) {
        code = udp_rx_wait(rx, SECOND);
        MUST(!udp_rx_harvest(rx, &packet, 1));
    }
    MUST(code == -EBADF && udp_rx_wait(rx, SECOND) == -EBADF && udp_rx_close(rx));
    uint16_t taken = here.port;
    int fd[2];
    MUST(udp_socket_pair(fd, &taken, 0, &why) == -EADDRINUSE && fd[0] == -1 && fd[1] == -1);
    MUST(strstr(why.text, "UDP port ") && strstr(why.text, strerror(EADDRINUSE)));
    close_end(&here);
}

/* Ancillary data: the parser reads what the builder writes, and never beyond the end of truncated or random bytes. */
static void ancillary(void)
{
    struct udpring_packet packet;
    struct udp_tx_item item = {.segment_size = 1200, .tos = 0x2e, .interface_index = 3};
    for (int family = 0; family < 2; family++) {
        uint8_t built[UDP_CMSG_BUILD_BYTES] __attribute__((aligned(8)));
        item.source = loopback(family ? AF_INET6 : AF_INET, 0);
        size_t plain, whole = udp_cmsg_build(built, &item, item.source.family, true, &plain);
        uint32_t drops = 0;
        memset(&packet, 0, sizeof(packet));
        udp_cmsg_parse(built, whole, &packet, &drops);
        MUST(packet.tos == 0x2e && packet.interface_index == 3 && !packet.segment_size);
        MUST(!memcmp(&packet.local, &item.source, sizeof(packet.local)));
        memset(&packet, 0, sizeof(packet));
        udp_cmsg_parse(built, plain, &packet, &drops);
        MUST(packet.tos == 0x2e && !packet.local.family);
        for (size_t cut = 0; cut <= whole; cut++) {   /* in memory of exactly that size, which the sanitiser watches */
            uint8_t *piece = malloc(cut ? cut : 1);
            memcpy(piece, built, cut);
            udp_cmsg_parse(piece, cut, &packet, &drops);
            free(piece);
        }
    }
    srand(1);
    for (int round = 0; round < 200000; round++) {
        size_t length = (size_t)rand() % 120;
        uint8_t *noise = malloc(length ? length : 1);
        for (size_t i = 0; i < length; i++)
            noise[i] = (uint8_t)rand();
        if (length >= sizeof(struct cmsghdr)) {   /* usually plausible, else the first length ends it */
            static const int levels[] = {SOL_IP, SOL_IPV6, SOL_SOCKET, 17};
            static const int types[] = {IP_PKTINFO, IP_TOS, IPV6_PKTINFO, IPV6_TCLASS, 104, SO_RXQ_OVFL};
            struct cmsghdr header = {.cmsg_len = (size_t)rand() % (length + 8), .cmsg_level = levels[rand() % 4],
                                     .cmsg_type = types[rand() % 6]};
            memcpy(noise, &header, sizeof(header));
        }
        uint32_t drops = 0;
        udp_cmsg_parse(noise, length, &packet, &drops);
        free(noise);
    }
}

/* Arming all free slots and waiting share one enter. So do all sends of a flush. Harvest and reap need none. */
static void one_enter(void)
{
    struct end here = open_end(), there = open_end();
    struct udp_rx *rx = open_rx(&here, 64);
    struct udp_tx *tx = open_tx(&there, 0);
    struct udpring_packet packets[32];
    struct udp_tx_done done[32];
    const unsigned one = tier == UDPRING_TIER_MMSG ? 0 : 1;
    enters = 0;
    MUST(udp_rx_wait(rx, 0) == -ETIME && enters == one);
    /* Few enough rounds that the send buffer does not count as full, which would split a flush. */
    for (int round = 0; round < 10; round++) {
        for (uint64_t i = 0; i < 32; i++) {
            struct udp_tx_item item = item_to("packet", i & 1 ? AF_INET6 : AF_INET, here.port);
            MUST(!udp_tx_push(tx, &item));
        }
        enters = 0;
        MUST(!udp_tx_flush(tx) && enters == one);
        MUST(udp_tx_reap(tx, done, 32) == 32 && enters == one);
        for (unsigned got = 0, count; got < 32; got += count) {
            enters = 0;
            MUST(!udp_rx_wait(rx, SECOND) && enters == one);
            count = udp_rx_harvest(rx, packets, 32);
            for (unsigned i = 0; i < count; i++)
                udp_rx_release(rx, packets[i].slot);
            MUST(enters == one);
        }
    }
    MUST(udp_tx_close(tx) && udp_rx_close(rx));
    close_end(&here);
    close_end(&there);
}

enum { SENDERS = 24 };

/* Which of these sockets a datagram arrived at. It is readable as soon as it was sent. */
static int arrived_at(const struct pollfd *polled, int count)
{
    struct pollfd now[8];
    memcpy(now, polled, sizeof(*now) * (size_t)count);
    MUST(poll(now, (nfds_t)count, 5000) == 1);
    for (int i = 0; i < count; i++)
        if (now[i].revents) {
            char byte[8];
            MUST(recv(now[i].fd, byte, sizeof(byte), MSG_TRUNC) >= 0);
            return i;
        }
    return -1;
}

/* True if there is nothing to read. A datagram over loopback is queued before sendto() returns. */
static bool nowhere(const struct pollfd *polled, int count)
{
    struct pollfd now[8];
    memcpy(now, polled, sizeof(*now) * (size_t)count);
    return poll(now, (nfds_t)count, 0) == 0;
}

/* Messages that may be data go to one of `count` sockets, by sender. Messages of another kind go to the separate socket. The
 * kernel discards all others. */
static void split_family(const struct udp_split *kinds, uint32_t count, int family)
{
    static const struct { uint8_t start[4]; size_t length; enum { DATA, APART, DISCARDED } goes; } sent[] = {
        {{1}, 148, APART}, {{1}, 296, APART}, {{2}, 92, APART}, {{3}, 64, APART}, {{1, 'u', 'A', 'G'}, 148, APART},
        {{4}, 32, DATA}, {{4}, 1452, DATA}, {{4, 'u', 'A', 'G'}, 48, DATA},
        {{0}, 1452, DATA}, {{1}, 149, DATA}, {{4, 'u', 'A', 'H'}, 64, DATA},   /* may be trains of data */
        {{4}, 31, DISCARDED}, {{4, 'u', 'A', 'H'}, 48, DISCARDED}, {{1}, 63, DISCARDED}, {{5}, 32, DISCARDED},
        {{4}, 3, DISCARDED}, {{4}, 0, DISCARDED},
    };
    int fd[4][2], separate[2];
    uint16_t port = 0;
    MUST(!udp_socket_group(fd, count, separate, kinds, &port, 0, &why) && port);
    struct pollfd polled[5] = {{.fd = separate[family], .events = POLLIN}};
    for (uint32_t i = 0; i < count; i++)
        polled[1 + i] = (struct pollfd){.fd = fd[i][family], .events = POLLIN};
    uint32_t used = 0;
    for (int sender = 0; sender < SENDERS; sender++) {
        struct udpring_address to = loopback(family ? AF_INET6 : AF_INET, port);
        struct sockaddr_storage name;
        socklen_t length = udp_address_to_sockaddr(&to, to.family, &name);
        int from = socket(to.family, SOCK_DGRAM, 0), mine = 0;
        MUST(from >= 0);
        for (size_t i = 0; i < UR_ARRAY_LENGTH(sent); i++) {
            char message[1500] = {0};
            memcpy(message, sent[i].start, 4);
            MUST(sendto(from, message, sent[i].length, 0, (struct sockaddr *)&name, length) == (ssize_t)sent[i].length);
            if (sent[i].goes == DISCARDED) {
                MUST(nowhere(polled, (int)count + 1));
                continue;
            }
            int at = arrived_at(polled, (int)count + 1);
            MUST((at > 0) == (sent[i].goes == DATA));
            MUST(!at || !mine || at == mine);
            mine = at ? at : mine;
        }
        used |= 1u << mine;
        close(from);
    }
    MUST(__builtin_popcount(used) >= (count > 1 ? 2 : 1));
    for (uint32_t i = 0; i < count; i++)
        close_end(&(struct end){.fd = {fd[i][0], fd[i][1]}});
    close_end(&(struct end){.fd = {separate[0], separate[1]}});
}

static void split(void)
{
    const struct udp_split kinds = {
        .word = {0x04000000, 0x04754147}, .words = 2, .least = 32,
        .separate = {{0x01000000, 148}, {0x01754147, 148}, {0x02000000, 92}, {0x03000000, 64}}, .separates = 4,
        .train_least = 64, .buffer_bytes = 1 << 16,
    };
    MUST(!udp_split_works(&kinds, &why));
    for (int family = 0; family < 2; family++) {
        split_family(&kinds, 1, family);
        split_family(&kinds, 4, family);
    }
    struct end here = open_end();   /* a port in use is not shared */
    int fd[2][2], separate[2];
    MUST(udp_socket_group(fd, 2, separate, &kinds, &here.port, 0, &why) == -EADDRINUSE && separate[0] == -1 && fd[1][1] == -1);
    close_end(&here);
}

static const struct { const char *name; void (*run)(void); } scenarios[] = {
    {"two_sockets", two_sockets}, {"watches", watches}, {"starve", starve},
    {"sticky_source", sticky_source}, {"trains", trains}, {"full_and_abandon", full_and_abandon},
    {"close_armed", close_armed}, {"refusals", refusals}, {"ancillary", ancillary},
    {"one_enter", one_enter}, {"split", split},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; i < UR_ARRAY_LENGTH(scenarios) && argc == 3; i++) {
        if (strcmp(argv[1], scenarios[i].name))
            continue;
        int named = udpring_tier_parse(argv[2]);
        MUST(named > 0);
        tier = (uint32_t)named;
        scenarios[i].run();
        return 0;
    }
    for (size_t i = 0; i < UR_ARRAY_LENGTH(scenarios); i++)
        puts(scenarios[i].name);
    return 2;
}
