/* Opens the receive side: checks the options and takes the best tier that works here. */
#include "rx_tier.h"
#include "tier_choice.h"

static int check_options(const struct udp_rx_options *options, struct udpring_reason *why)
{
    if (options->many ? options->sockets != 0 : options->sockets < 1 || options->sockets > UDP_RX_SOCKETS_MAX)
        return ur_fail(why, -EINVAL, "%u sockets given to a receive ring: 1 or 2", options->sockets);
    if (options->passive && (!options->many || options->tier != UDPRING_TIER_MMSG))
        return ur_fail(why, -EINVAL, "only tier mmsg receives from sockets that the caller polls");
    if (options->slots > UDP_RX_SLOTS_MAX)
        return ur_fail(why, -EINVAL, "%u receive buffers a socket: at most %d", options->slots, UDP_RX_SLOTS_MAX);
    if (options->slot_bytes > UDP_RX_SLOT_BYTES_MAX)
        return ur_fail(why, -EINVAL, "receive buffers of %u bytes: at most %d, no datagram is longer", options->slot_bytes,
                       UDP_RX_SLOT_BYTES_MAX);
    if (options->cq_entries > UDP_RX_CQ_ENTRIES_MAX)
        return ur_fail(why, -EINVAL, "a completion queue of %u entries: at most %d", options->cq_entries,
                       UDP_RX_CQ_ENTRIES_MAX);
    return 0;
}

struct opening {
    struct udp_rx **rx;
    const struct udp_rx_options *options;
};

static int open_tier(void *context, uint32_t tier, struct udpring_reason *why)
{
    const struct opening *opening = context;
    return udp_rx_open_tier(opening->rx, tier, opening->options, why);
}

int udp_rx_open(struct udp_rx **rx, const struct udp_rx_options *options, struct udpring_reason *why)
{
    struct opening opening = {rx, options};
    char reasons[UDP_TIER_REASON_BYTES];
    *rx = NULL;
    int code = check_options(options, why);
    if (!code)
        code = udp_tier_choose(options->tier, open_tier, &opening, reasons, why);
    if (!code)
        memcpy((*rx)->reason, reasons, sizeof(reasons));
    return code;
}
