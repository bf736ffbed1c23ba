#include "queue.h"

#include <stdlib.h>

#define CHUNK_BYTES 4096u            /* with its head */
#define CHUNK_ROOM (CHUNK_BYTES - (uint32_t)sizeof(struct net_chunk))
#define FREE_CHUNKS_MAX 1024u
#define SEND_MAX (1u << 30)

static struct net_chunk *take(struct udpring_net *net, uint64_t length)
{
    struct net_chunk *chunk = net->free_chunks;
    uint32_t room = length > CHUNK_ROOM ? (uint32_t)length : CHUNK_ROOM;
    if (room == CHUNK_ROOM && chunk) {
        net->free_chunks = chunk->next;
        net->free_chunk_count--;
    } else {
        chunk = malloc(sizeof(*chunk) + room);
        if (!chunk)
            return NULL;
        chunk->room = room;
    }
    chunk->next = NULL;
    chunk->filled = chunk->sent = 0;
    return chunk;
}

static void give(struct udpring_net *net, struct net_chunk *chunk)
{
    if (chunk->room != CHUNK_ROOM || net->free_chunk_count >= FREE_CHUNKS_MAX) {
        free(chunk);
        return;
    }
    chunk->next = net->free_chunks;
    net->free_chunks = chunk;
    net->free_chunk_count++;
}

int net_queue_add(struct udpring_net *net, struct net_connection *connection, const uint8_t *data, uint64_t length)
{
    struct net_chunk *tail = connection->tail, *added = NULL;
    uint64_t fits = tail ? tail->room - tail->filled : 0;
    if (fits > length)
        fits = length;
    if (fits < length) {
        added = take(net, length - fits);
        if (!added)
            return -ENOMEM;
        memcpy(added->data, data + fits, length - fits);
        added->filled = (uint32_t)(length - fits);
        if (tail)
            tail->next = added;
        else
            connection->head = added;
        connection->tail = added;
    }
    if (fits) {
        memcpy(tail->data + tail->filled, data, fits);
        tail->filled += (uint32_t)fits;
    }
    connection->queued += length;
    net->info.queued_bytes += length;
    return 0;
}

uint32_t net_queue_head(const struct net_connection *connection, const uint8_t **data)
{
    const struct net_chunk *head = connection->head;
    if (!head)
        return 0;
    *data = head->data + head->sent;
    uint32_t length = head->filled - head->sent;
    return length < SEND_MAX ? length : SEND_MAX;
}

void net_queue_advance(struct udpring_net *net, struct net_connection *connection, uint32_t length)
{
    struct net_chunk *head = connection->head;
    head->sent += length;
    connection->queued -= length;
    net->info.queued_bytes -= length;
    if (head->sent < head->filled)
        return;
    connection->head = head->next;
    if (!head->next)
        connection->tail = NULL;
    give(net, head);
}

void net_queue_drop(struct udpring_net *net, struct net_connection *connection)
{
    struct net_chunk *kept = connection->sending == NET_IDLE ? NULL : connection->head;
    struct net_chunk *chunk = kept ? kept->next : connection->head;
    while (chunk) {
        struct net_chunk *next = chunk->next;
        give(net, chunk);
        chunk = next;
    }
    net->info.queued_bytes -= connection->queued;
    connection->queued = 0;
    connection->head = connection->tail = kept;
    if (kept) {
        kept->next = NULL;
        kept->filled = kept->sent + connection->flight;
        connection->queued = connection->flight;
        net->info.queued_bytes += connection->flight;
    }
}

void net_queue_close(struct udpring_net *net)
{
    while (net->free_chunks) {
        struct net_chunk *chunk = net->free_chunks;
        net->free_chunks = chunk->next;
        free(chunk);
    }
    net->free_chunk_count = 0;
}
