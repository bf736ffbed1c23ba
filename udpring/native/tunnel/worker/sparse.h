/* Sparse flows (RFC 8290): packets of interactive programs that leave now and then, such as echoes, keystrokes, speech and
 * questions to name servers.
 *
 * Under bulk transfers their packets wait for the workers to get the CPU, so the workers have a higher weight while such
 * a flow lives (weight.h). Without one, bulk transfers alone take less CPU time with the usual weight.
 *
 * A flow is sparse if it sent a packet SPARSE_GAP_MIN_NS to SPARSE_GAP_MAX_NS ago, and was not busy just before: no super-packets,
 * and no SPARSE_RUN packets with shorter gaps. Packets that arrive are not looked at: a program that answers sends, too.
 *
 * Owner: the worker, zero at first. Thread: the worker. Nothing to free. The caller gives the time. */
#ifndef UDPRING_TUNNEL_WORKER_SPARSE_H
#define UDPRING_TUNNEL_WORKER_SPARSE_H
#include "../tun/flow_queue.h"

struct sparse_flow {
    uint64_t last_ns;                   /* its last packet. 0: none yet */
    uint64_t busy_until_ns;
    uint32_t run;                       /* packets with short gaps */
};

struct sparse {
    struct sparse_flow flow[FLOW_QUEUES];
};

/* A packet of this flow leaves. Returns until when its sender may want short waits. 0: the flow is not sparse. */
uint64_t sparse_until(struct sparse *sparse, uint32_t flow, bool super_packet, uint64_t now);
#endif
