/* Queues between the program and the workers, in place of a TUN device.
 *
 * Each worker has a port: a queue of packets from the program, and one of packets to it. The program's packets of a flow
 * go to one worker, so they stay in order. Each side sleeps on an eventfd, and is woken only while it sleeps (wake.h).
 *
 * Owner: the plane. Threads: a queue has one on either side: its worker, and the program's. Freed by packet_ports_close(). */
#ifndef UDPRING_TUNNEL_PACKETS_PORTS_H
#define UDPRING_TUNNEL_PACKETS_PORTS_H
#include "../abi.h"

#include "queue.h"
#include "wake.h"

/* Owner: the ports. Threads: its worker and the program's. Freed with them. */
struct packet_port {
    struct packet_queue *outward;     /* from the program */
    struct packet_queue *inward;      /* to the program */
    struct packet_wake sent;          /* the worker sleeps: there are packets from the program */
    struct packet_wake room;          /* the program sleeps: `outward` has room. All ports have one descriptor */
    struct packet_wake *received;     /* the program sleeps: there are packets for it. One of all ports */
};

struct packet_ports {
    struct packet_wake received;
    int room_fd;
    uint32_t count, next;             /* next: the port that is emptied first */
    struct packet_port port[UDPRING_WORKERS_MAX];
};

/* NULL with the cause in *code and `why`. */
struct packet_ports *packet_ports_open(uint32_t count, uint64_t outward_bytes, uint64_t inward_bytes, int *code,
                                       struct udpring_reason *why);
void packet_ports_close(struct packet_ports *ports);

/* ---- the worker ---- */

/* The next packet of the program. NULL: there is none, and the next one raises port->sent. Earlier packets stay until
 * packet_port_release(). */
uint8_t *packet_port_take(struct packet_port *port, uint32_t *length);
/* Frees the packets taken. The program is woken when half of the queue is free. */
void packet_port_release(struct packet_port *port);
/* 0, or -ENOBUFS: the program does not keep up. */
int packet_port_give(struct packet_port *port, const uint8_t *packet, uint32_t length, uint32_t peer) UR_MUST_CHECK;
/* Makes the packets given visible to the program, and wakes it if it sleeps. */
void packet_port_publish(struct packet_port *port);

/* ---- the program: any thread, one at a time ---- */

/* As udpring_plane_packets_send(). */
int32_t packet_ports_send(struct packet_ports *ports, struct udpring_packets_out *out, int32_t wait);
/* As udpring_plane_packets_receive(). */
int32_t packet_ports_receive(struct packet_ports *ports, uint32_t max, int32_t wait, struct udpring_packets **batch);
#endif
