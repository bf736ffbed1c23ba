/* Internal to the probe: probe.c runs it, probe_features.c has one function a feature, and probe_try.c has the functions that
 * these share. */
#ifndef UDPRING_URING_PROBE_H
#define UDPRING_URING_PROBE_H
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "abi.h"
#include "bufring.h"
#include "queue.h"

#define UR_PROBE_WAIT_NS 1000000000ll
#define UR_PROBE_BUFFERS 8
#define UR_PROBE_BUFFER_BYTES 512
#define UR_PROBE_ZC_BYTES 4096

#define UR_PROBE_BYTES 8
extern const char ur_probe_greeting[UR_PROBE_BYTES];

/* Owner: udpring_uring_probe(). Thread: its caller. Freed there after the ring is drained, else leaked. */
struct probe {
    struct ur_ring ring;
    struct ur_bufring buffers;
    struct udpring_feature_result *results;
    uint64_t serial;               /* user_data of the newest operation */
    int receiver, sender;          /* a pair of sockets: the receiver gets the sender's datagrams */
    struct sockaddr_in to;         /* the receiver's address. Family 0: the pair is connected (no loopback here) */
    struct msghdr header;
    struct iovec vector;
    struct sockaddr_storage name;
    char payload[UR_PROBE_ZC_BYTES];
    union { struct cmsghdr aligned; uint8_t bytes[64]; } control;
    char memory[UR_PROBE_BUFFERS][UR_PROBE_BUFFER_BYTES];
};

/* Both fill the result of a feature. works() returns 0, fails() the code. */
int ur_probe_works(struct probe *probe, enum udpring_feature which, const char *seen);
int ur_probe_fails(struct probe *probe, enum udpring_feature which, int code, const char *what);

struct io_uring_sqe *ur_probe_prepare(struct probe *probe, enum io_uring_op opcode, int fd);
/* Submits and waits for the next completion with this user_data. Discards others. */
int ur_probe_await(struct probe *probe, uint64_t user_data, struct io_uring_cqe *out);
/* Returns the result of the newest operation, or the reason why there is none. */
int ur_probe_outcome(struct probe *probe, struct io_uring_cqe *out);
void ur_probe_cancel(struct probe *probe, uint64_t user_data);
/* Sends one datagram from the sender to the receiver, by sendto(2). */
bool ur_probe_send_greeting(struct probe *probe);

/* The features, each with a new pair of sockets. */
int ur_probe_timeout(struct probe *probe);
int ur_probe_recvmsg(struct probe *probe);
int ur_probe_sendmsg(struct probe *probe);
int ur_probe_buffer_ring(struct probe *probe);
int ur_probe_recvmsg_multishot(struct probe *probe);
int ur_probe_read_multishot(struct probe *probe);
int ur_probe_cancel_any(struct probe *probe);
int ur_probe_msg_ring(struct probe *probe);
int ur_probe_nop_inject(struct probe *probe);
int ur_probe_disabled(struct probe *probe);
int ur_probe_attach(struct probe *probe);
int ur_probe_iowq_workers(struct probe *probe);
int ur_probe_sq_poll(struct probe *probe);
int ur_probe_big_sqe(struct probe *probe);
int ur_probe_big_cqe(struct probe *probe);
int ur_probe_mixed_cqe(struct probe *probe);
int ur_probe_napi(struct probe *probe);
int ur_probe_resize(struct probe *probe);
int ur_probe_send_zc(struct probe *probe);
int ur_probe_sendmsg_zc(struct probe *probe);
#endif
