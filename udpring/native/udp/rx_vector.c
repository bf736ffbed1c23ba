#include "rx_vector.h"

#include <stdlib.h>

int udp_rx_vector_open(struct udp_rx_vector *vector, uint32_t first, uint32_t count)
{
    _Static_assert(sizeof(struct udp_rx_slot_header) % 64 == 0, "the payload starts on a cache line");
    vector->free = calloc(count, sizeof(*vector->free));
    if (!vector->free)
        return -ENOMEM;
    for (uint32_t n = 0; n < count; n++)   /* take the lowest slot first */
        vector->free[n] = first + count - 1 - n;
    vector->free_count = count;
    return 0;
}

void udp_rx_vector_close(struct udp_rx_vector *vector)
{
    free(vector->free);
    vector->free = NULL;
}

static void prepare(const struct udp_rx *rx, struct udp_rx_vector *vector, uint32_t at, uint32_t slot)
{
    uint8_t *payload = udp_slot(&rx->slots, slot) + rx->tier->header_bytes;
    struct udp_rx_slot_header *header = (struct udp_rx_slot_header *)(void *)payload - 1;
    vector->slot[at] = slot;
    vector->iov[at] = (struct iovec){.iov_base = payload, .iov_len = rx->slot_bytes};
    vector->header[at].msg_hdr = (struct msghdr){
        .msg_name = header->name, .msg_namelen = sizeof(header->name), .msg_iov = &vector->iov[at], .msg_iovlen = 1,
        .msg_control = header->control, .msg_controllen = sizeof(header->control)};
}

uint32_t udp_rx_vector_fill(const struct udp_rx *rx, struct udp_rx_vector *vector, uint32_t most)
{
    while (vector->prepared < most && vector->free_count)
        prepare(rx, vector, vector->prepared++, vector->free[--vector->free_count]);
    return vector->prepared;
}

/* The caller got the slots of the first `used` messages. Fill them from the stack, or else from the end of the vector. */
static void refill(const struct udp_rx *rx, struct udp_rx_vector *vector, uint32_t used)
{
    uint32_t at = 0;
    for (; at < used && vector->free_count; at++)
        prepare(rx, vector, at, vector->free[--vector->free_count]);
    for (; at < used && vector->prepared > used; at++)
        prepare(rx, vector, at, vector->slot[--vector->prepared]);
    if (at < used)
        vector->prepared = at;
}

/* As recvmmsg of one message, at less cost. */
static int receive_one(int fd, struct udp_rx_vector *vector)
{
    struct msghdr *header = &vector->header[0].msg_hdr;
    ssize_t length = vector->plain ? recvfrom(fd, vector->iov[0].iov_base, vector->iov[0].iov_len, MSG_DONTWAIT,
                                              header->msg_name, &header->msg_namelen)
                                   : recvmsg(fd, header, MSG_DONTWAIT);
    if (length < 0)
        return -1;
    if (vector->plain)
        header->msg_controllen = 0;   /* prepare() sets it again */
    vector->header[0].msg_len = (unsigned)length;
    return 1;
}

int udp_rx_vector_receive(struct udp_rx *rx, struct udp_rx_vector *vector, int fd, uint32_t socket, uint32_t *drops,
                          struct udpring_packet *packets, uint32_t room)
{
    int got = room == 1 ? receive_one(fd, vector) : recvmmsg(fd, vector->header, room, MSG_DONTWAIT, NULL);
    if (got < 0)
        return -errno;
    for (int i = 0; i < got; i++) {
        struct msghdr *header = &vector->header[i].msg_hdr;
        struct udp_rx_message message = {
            .name = header->msg_name, .name_length = header->msg_namelen, .control = header->msg_control,
            .control_length = (uint32_t)header->msg_controllen, .flags = (uint32_t)header->msg_flags, .socket = socket,
            .drops = drops};
        udp_rx_deliver(rx, &packets[i], vector->slot[i], vector->iov[i].iov_base, vector->header[i].msg_len, &message);
    }
    refill(rx, vector, (uint32_t)got);
    return got;
}
