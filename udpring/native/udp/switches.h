/* Options of receiving sockets that rings switch on while they are open. Rings may share a socket, so only the last ring
 * switches an option off. Otherwise a ring that stays open would receive trains that the kernel already joined as one
 * datagram. */
#ifndef UDPRING_UDP_SWITCHES_H
#define UDPRING_UDP_SWITCHES_H
#include "../base.h"

/* One option of one socket. Owner: all its holders together. Thread: any. Freed by the last udp_switch_off(). */
struct udp_switch;

/* 0 when the option is on, or -errno. *held: pass it to udp_switch_off(). NULL: it was on before, and stays on. */
int udp_switch_on(int fd, int level, int option, struct udp_switch **held) UR_MUST_CHECK;
struct udp_handle_socket;
/* The same for a socket whose identity is known. */
int udp_switch_on_socket(const struct udp_handle_socket *socket, int level, int option, struct udp_switch **held) UR_MUST_CHECK;
/* fd: as at udp_switch_on(). If it was closed meanwhile, a new file with its number stays unchanged. NULL is fine. Do not call
 * it in a forked child, because the parent still uses the socket. */
void udp_switch_off(int fd, struct udp_switch *held);
#endif
