/* Options of receiving sockets that rings switch on for as long as they need them. Rings may share a socket, and the last of them
 * switches them off again: else what the kernel has joined for one that goes on would come to it as one datagram. */
#ifndef UDPRING_UDP_SWITCHES_H
#define UDPRING_UDP_SWITCHES_H
#include "../base.h"

/* One option of one socket. Owner: all who hold it. Thread: any. Freed by the last udp_switch_off(). */
struct udp_switch;

/* 0 when it is on, or -errno. *held: to be given back to udp_switch_off(); NULL when it was on without us, and stays so. */
int udp_switch_on(int fd, int level, int option, struct udp_switch **held) UR_MUST_CHECK;
/* fd: as at udp_switch_on(); if it was closed meanwhile, who has its number now keeps its options. NULL is fine. Not in a child
 * forked since: the parent goes on with the socket. */
void udp_switch_off(int fd, struct udp_switch *held);
#endif
