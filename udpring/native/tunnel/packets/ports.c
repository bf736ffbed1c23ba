/* Opening and closing ports, and the workers' side of them. */
#include "ports.h"

#include <stdlib.h>
#include <sys/eventfd.h>

/* A worker publishes its packets at the latest after this many bytes, so that the program begins to read. */
#define PUBLISH_BYTES (64u << 10)

static int open_port(struct packet_ports *ports, uint64_t outward_bytes, uint64_t inward_bytes)
{
    struct packet_port *port = &ports->port[ports->count++];
    *port = (struct packet_port){.sent.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), .room.fd = ports->room_fd,
                                 .received = &ports->received};
    if (port->sent.fd < 0)
        return -errno;
    port->outward = packet_queue_new(outward_bytes);
    port->inward = packet_queue_new(inward_bytes);
    return port->outward && port->inward ? 0 : -ENOMEM;
}

struct packet_ports *packet_ports_open(uint32_t count, uint64_t outward_bytes, uint64_t inward_bytes, int *code,
                                       struct udpring_reason *why)
{
    struct packet_ports *ports = calloc(1, sizeof(*ports));
    *code = -ENOMEM;
    if (ports) {
        ports->room_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        ports->received.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        *code = ports->room_fd < 0 || ports->received.fd < 0 ? -errno : 0;
    }
    for (uint32_t i = 0; i < count && *code == 0; i++)
        *code = open_port(ports, outward_bytes, inward_bytes);
    if (*code == 0)
        return ports;
    ur_fail(why, *code, "no queues for the program's packets: %s", strerror(-*code));
    packet_ports_close(ports);
    return NULL;
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

void packet_ports_close(struct packet_ports *ports)
{
    if (!ports)
        return;
    close_fd(ports->room_fd);
    close_fd(ports->received.fd);
    for (uint32_t i = 0; i < ports->count; i++) {
        close_fd(ports->port[i].sent.fd);
        packet_queue_free(ports->port[i].outward);
        packet_queue_free(ports->port[i].inward);
    }
    free(ports);
}

uint8_t *packet_port_take(struct packet_port *port, uint32_t *length)
{
    struct packet_record *record = packet_queue_take(port->outward);
    if (ur_unlikely(!record)) {
        packet_wake_expect(&port->sent);
        record = packet_queue_take(port->outward);
        if (!record)
            return NULL;
        packet_wake_forget(&port->sent);
    }
    *length = record->length;
    return packet_of(record);
}

void packet_port_release(struct packet_port *port)
{
    struct packet_queue *queue = port->outward;
    if (queue->tail == queue->read)
        return;
    packet_queue_release(queue);
    if (packet_queue_half_free(queue))
        packet_wake_raise(&port->room);
}

int packet_port_give(struct packet_port *port, const uint8_t *packet, uint32_t length, uint32_t peer)
{
    struct packet_queue *queue = port->inward;
    int result = packet_queue_put(queue, packet, length, peer);
    if (ur_unlikely(queue->write - queue->head >= PUBLISH_BYTES))
        packet_port_publish(port);
    return result;
}

void packet_port_publish(struct packet_port *port)
{
    if (port->inward->write == port->inward->head)
        return;
    packet_queue_publish(port->inward);
    packet_wake_raise(port->received);
}
