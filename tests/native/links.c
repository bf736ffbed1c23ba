/* Messages of rtnetlink about links. */
#include "tunnel/routes/netlink.h"

#include "abi.h"

int32_t udpring_links_request(uint32_t sequence, uint8_t *request)
{
    return (int32_t)netlink_links_request(request, sequence);
}

struct listing {
    struct udpring_link_note *out;
    uint32_t max, count;
};

static void list(void *context, const struct link_note *note)
{
    struct listing *listing = context;
    if (listing->count < listing->max)
        listing->out[listing->count] = (struct udpring_link_note){note->interface_index, note->vrf};
    listing->count++;
}

int32_t udpring_links(const uint8_t *bytes, uint32_t length, uint32_t sequence, struct udpring_link_note *out, uint32_t max,
                      uint32_t *count)
{
    struct listing listing = {.out = out, .max = max};
    int result = netlink_links(bytes, length, sequence, list, &listing);
    *count = listing.count;
    return result;
}
