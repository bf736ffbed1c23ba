/* Chooses the tier: the requested one, or the best that has carried a datagram over loopback in this process. */
#include "tier_choice.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rx_tier.h"
#include "socket.h"

#define PROBE_WAIT_NS 2000000000   /* loopback delivers in microseconds. A tier that needs this long is broken */
#define LOOPBACK_WAIT_MS 500
#define PROBE_SLOTS 8

/* Opens two sockets on loopback and binds `to`. Uses IPv6 where the host has no IPv4. If loopback was never up while other
 * interfaces are (ip-netns(8)), it has no address. The socket is then bound to all addresses, and no datagram reaches it. */
static int probe_sockets(int *from, int *to, struct sockaddr_storage *address, socklen_t *length)
{
    static const struct udpring_address loopback[] = {
        {.family = AF_INET, .ip = {127, 0, 0, 1}},
        {.family = AF_INET6, .ip = {[15] = 1}},
        {.family = AF_INET},
        {.family = AF_INET6},
    };
    int code = 0;
    for (size_t i = 0; i < UR_ARRAY_LENGTH(loopback); i++) {
        *from = socket(loopback[i].family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        *to = socket(loopback[i].family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        *length = udp_address_to_sockaddr(&loopback[i], loopback[i].family, address);
        if (*from >= 0 && *to >= 0 && !bind(*to, (struct sockaddr *)address, *length) &&
            !getsockname(*to, (struct sockaddr *)address, length))
            return 0;
        code = -errno;
        if (*from >= 0)
            close(*from);
        if (*to >= 0)
            close(*to);
    }
    return code;
}

/* Whether a datagram gets from one socket to the other at all. It does not if loopback is down, as in a new network namespace,
 * or if a firewall drops it. That is not a fault of a tier. */
static bool loopback_carries(int from, int to, const struct sockaddr_storage *address, socklen_t length)
{
    char byte = 0;
    struct pollfd arrived = {.fd = to, .events = POLLIN};
    return sendto(from, &byte, 1, MSG_NOSIGNAL, (const struct sockaddr *)address, length) == 1 &&
           poll(&arrived, 1, LOOPBACK_WAIT_MS) == 1 && recv(to, &byte, 1, MSG_DONTWAIT) == 1;
}

/* Sends datagrams over loopback and receives them through the tier. Checks their local address as well. */
static int perform(struct udp_rx *rx, int from, const struct sockaddr_storage *address, socklen_t length,
                   struct udpring_reason *why)
{
    static const char payload[] = "udpring";
    struct udpring_packet packet;
    /* The first round sends before a receive is armed, the second one afterwards. */
    for (int round = 0; round < 2; round++) {
        if (sendto(from, payload, sizeof(payload), MSG_NOSIGNAL, (const struct sockaddr *)address, length) < 0)
            return ur_fail(why, -errno, "no datagram can be sent over loopback: %s", strerror(errno));
        uint64_t give_up = ur_clock_ns(CLOCK_MONOTONIC) + PROBE_WAIT_NS;
        unsigned got = 0;
        while (!got) {
            uint64_t now = ur_clock_ns(CLOCK_MONOTONIC);
            if (now >= give_up)
                return ur_fail(why, -ETIME, "a datagram sent over loopback never arrived");
            int code = udp_rx_wait(rx, (int64_t)(give_up - now));
            if (code && code != -EINTR && code != -ETIME)
                return ur_fail(why, code, "receiving failed: %s", strerror(-code));
            got = udp_rx_harvest(rx, &packet, 1);
        }
        bool right = packet.length == sizeof(payload) && !memcmp(packet.data, payload, sizeof(payload)) &&
                     packet.source.port && packet.local.family;
        udp_rx_release(rx, packet.slot);
        if (!right)
            return ur_fail(why, -EIO, "a datagram sent over loopback arrived changed or without its addresses");
    }
    return 0;
}

/* Checks as much as is possible without traffic. */
static int arm_only(struct udp_rx *rx, struct udpring_reason *why)
{
    int code = udp_rx_wait(rx, 0);
    return !code || code == -ETIME || code == -EINTR ? 0 : ur_fail(why, code, "receiving failed: %s", strerror(-code));
}

static int try_tier(uint32_t tier, struct udpring_reason *why)
{
    int from = -1, to = -1;
    struct sockaddr_storage address;
    socklen_t length;
    int code = probe_sockets(&from, &to, &address, &length);
    if (code)
        return ur_fail(why, code, "no loopback socket to try it on: %s", strerror(-code));
    bool carries = loopback_carries(from, to, &address, length);
    code = udp_socket_prepare(to, UDP_SOCKET_LOCAL | UDP_SOCKET_TOS, why);
    struct udp_rx_options options = {
        .tier = tier, .slots = PROBE_SLOTS, .slot_bytes = 2048, .sockets = 1, .fd = {to}};
    struct udp_rx *rx = NULL;
    if (!code)
        code = udp_rx_open_tier(&rx, tier, &options, why);
    if (!code)
        code = carries ? perform(rx, from, &address, length, why) : arm_only(rx, why);
    udp_rx_close(rx);
    close(from);
    close(to);
    return code;
}

/* The results, kept for the life of the process. Several threads may open rings, so the mutex guards them. */
static struct {
    bool known;
    int code;
    struct udpring_reason why;
} found[UDPRING_TIER_MMSG + 1];
static pthread_mutex_t found_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void take_lock(void)
{
    pthread_mutex_lock(&found_lock);
}

static void give_lock(void)
{
    pthread_mutex_unlock(&found_lock);
}

/* A fork waits for a running probe. Otherwise the child would inherit a mutex that is locked by a thread it does not have. */
static void survive_forks(void)
{
    (void)pthread_atfork(take_lock, give_lock, give_lock);
}

static int works(uint32_t tier, struct udpring_reason *why)
{
    pthread_once(&fork_once, survive_forks);
    take_lock();
    if (!found[tier].known) {
        found[tier].code = try_tier(tier, &found[tier].why);
        found[tier].known = true;
    }
    int code = found[tier].code;
    if (why)
        *why = found[tier].why;
    give_lock();
    return code;
}

int32_t udpring_tier_probe(uint32_t tier, struct udpring_reason *why)
{
    if (tier == UDPRING_TIER_AUTO || tier >= UDPRING_TIER_MMSG + 1)
        return ur_fail(why, -EINVAL, "%u is not a tier that can be tried", tier);
    return works(tier, why);
}

/* Appends "NAME: why" to a list of reasons. */
static void add_reason(char reasons[UDP_TIER_REASON_BYTES], uint32_t tier, const struct udpring_reason *why)
{
    size_t used = strlen(reasons);
    snprintf(reasons + used, UDP_TIER_REASON_BYTES - used, "%s%s: %s", used ? "; " : "", udpring_tier_name(tier),
             why->text);
}

int udp_tier_choose(uint32_t asked, udp_tier_open *open, void *context, char reasons[UDP_TIER_REASON_BYTES],
                    struct udpring_reason *why)
{
    *reasons = 0;
    if (asked >= UDPRING_TIER_COUNT)
        return ur_fail(why, -EINVAL, "%u is not a tier", asked);
    if (asked != UDPRING_TIER_AUTO)
        return open(context, asked, why);
    int code = -ENOSYS;
    for (uint32_t tier = UDPRING_TIER_URING_MULTISHOT; tier <= UDPRING_TIER_MMSG; tier++) {
        struct udpring_reason here = {""};
        code = works(tier, &here);
        if (!code)
            code = open(context, tier, &here);
        if (!code)
            return 0;
        add_reason(reasons, tier, &here);
        if (why)
            *why = here;
    }
    return code;
}
