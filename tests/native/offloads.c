/* The offloads by themselves: runs segment.c, coalesce.c and checksum.c on packets that no kernel would make.
 * Every packet gets memory of exactly its size, so that a sanitiser sees a read behind it. */
#include <arpa/inet.h>
#include <stdlib.h>

#include "abi.h"
#include "tunnel/tun/checksum.h"
#include "tunnel/tun/coalesce.h"
#include "tunnel/tun/segment.h"

int32_t udpring_segment(const uint8_t *vnet, const uint8_t *packet, uint32_t length, uint8_t *out, uint32_t room,
                        uint32_t *lengths, uint32_t max)
{
    struct vnet_header header;
    memcpy(&header, vnet, sizeof(header));
    uint8_t *copy = malloc(length ? length : 1);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, packet, length);
    struct segmenter segmenter;
    int32_t result = segment_open(&segmenter, &header, copy, length);
    uint8_t *segment;
    uint32_t bytes, used = 0;
    while (result >= 0 && segment_next(&segmenter, &segment, &bytes)) {
        if ((uint32_t)result == max || bytes > room - used) {
            result = -ENOSPC;
            break;
        }
        memcpy(out + used, segment, bytes);
        lengths[result++] = bytes;
        used += bytes;
    }
    free(copy);
    return result;
}

static void free_all(uint8_t **copies, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        free(copies[i]);
    free(copies);
}

int32_t udpring_coalesce(int32_t fd, uint32_t offloads, const uint8_t *packets, const uint32_t *lengths, uint32_t count)
{
    struct tun tun = {.fd = fd, .query_fd = -1, .offloads = offloads, .vnet = true};
    struct coalescer *coalescer = calloc(1, sizeof(*coalescer));
    uint8_t **copies = calloc(count ? count : 1, sizeof(*copies));
    int32_t result = coalescer && copies ? 0 : -ENOMEM;
    for (uint32_t i = 0; result == 0 && i < count; i++) {
        copies[i] = malloc(lengths[i]);
        if (!copies[i]) {
            result = -ENOMEM;
            break;
        }
        memcpy(copies[i], packets, lengths[i]);
        packets += lengths[i];
    }
    if (result == 0) {
        coalescer->tun = &tun;
        for (uint32_t i = 0; i < count; i++)
            coalesce_packet(coalescer, copies[i], lengths[i]);
        coalesce_flush(coalescer);
        result = coalescer->refused ? -EIO : (int32_t)coalescer->super_packets;
    }
    if (copies)
        free_all(copies, count);
    free(coalescer);
    return result;
}

uint32_t udpring_checksum(const uint8_t *bytes, uint32_t length, uint32_t first)
{
    uint64_t sum = checksum_add(checksum_add(0, bytes, first), bytes + first, length - first);
    return ntohs((uint16_t)~checksum_fold(sum));
}
