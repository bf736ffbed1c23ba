/* A small eBPF program that chooses the queue of the TUN device for a packet, so that a flow never changes its queue.
 *
 *   TCP: hash of addresses and ports. Other packets, fragments, and TCP without room for ports: hash of the addresses alone.
 *   Fragments have no ports, and must stay in order with the datagrams sent after them.
 *
 * The kernel's own choice follows the queue on which the other direction of the flow was written last, so it moves.
 * Sources: tun(4), bpf(2), Documentation/bpf/instruction-set.rst. TUNSETSTEERINGEBPF (Linux 4.16). */
#include "../../base.h"

#include <linux/bpf.h>
#include <linux/if_tun.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tun.h"

#define INSN(op, d, s, o, i) ((struct bpf_insn){.code = (op), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})
/* Loads from the packet into r0, in host order. They need the context in r6 and spoil r1 to r5. */
#define LOAD(size, at) INSN(BPF_LD | (size) | BPF_ABS, 0, 0, 0, at)
#define LOAD_AT(size, reg, at) INSN(BPF_LD | (size) | BPF_IND, 0, reg, 0, at)
#define COPY(d, s) INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define SUBTRACT(d, s) INSN(BPF_ALU64 | BPF_SUB | BPF_X, d, s, 0, 0)
#define XOR(d, s) INSN(BPF_ALU64 | BPF_XOR | BPF_X, d, s, 0, 0)
#define ALU(op, d, i) INSN(BPF_ALU64 | (op) | BPF_K, d, 0, 0, i)
#define LENGTH INSN(BPF_LDX | BPF_MEM | BPF_W, R0, R6, offsetof(struct __sk_buff, len), 0)
#define JUMP(op, r, i, o) INSN(BPF_JMP | (op) | BPF_K, r, 0, o, i)

enum { R0, R1, R6 = 6, R7, R8 };

static const struct bpf_insn program[] = {
    COPY(R6, R1),
    LOAD(BPF_B, 0),
    COPY(R8, R0),
    ALU(BPF_RSH, R0, 4),
    JUMP(BPF_JEQ, R0, 6, 17),           /* -> IPv6 */
    /* IPv4 */
    LOAD(BPF_W, 12),
    COPY(R7, R0),
    LOAD(BPF_W, 16),
    XOR(R7, R0),
    LOAD(BPF_B, 9),
    JUMP(BPF_JNE, R0, IPPROTO_TCP, 33), /* -> done */
    LOAD(BPF_H, 6),
    ALU(BPF_AND, R0, 0x3fff),
    JUMP(BPF_JNE, R0, 0, 30),           /* a fragment -> done */
    ALU(BPF_AND, R8, 15),
    ALU(BPF_LSH, R8, 2),
    LENGTH,
    SUBTRACT(R0, R8),
    JUMP(BPF_JSLT, R0, 4, 25),          /* no ports -> done */
    LOAD_AT(BPF_W, R8, 0),              /* the ports */
    XOR(R7, R0),
    JUMP(BPF_JA, 0, 0, 22),             /* -> done */
    /* IPv6 */
    LOAD(BPF_W, 8),
    COPY(R7, R0),
    LOAD(BPF_W, 12),
    XOR(R7, R0),
    LOAD(BPF_W, 16),
    XOR(R7, R0),
    LOAD(BPF_W, 20),
    XOR(R7, R0),
    LOAD(BPF_W, 24),
    XOR(R7, R0),
    LOAD(BPF_W, 28),
    XOR(R7, R0),
    LOAD(BPF_W, 32),
    XOR(R7, R0),
    LOAD(BPF_W, 36),
    XOR(R7, R0),
    LOAD(BPF_B, 6),
    JUMP(BPF_JNE, R0, IPPROTO_TCP, 4),  /* -> done */
    LENGTH,
    JUMP(BPF_JLT, R0, 40 + 4, 2),       /* no ports -> done */
    LOAD(BPF_W, 40),                    /* the ports */
    XOR(R7, R0),
    /* done */
    ALU(BPF_MUL, R7, (int)2654435761u),
    ALU(BPF_RSH, R7, 16),
    ALU(BPF_AND, R7, 0xffff),
    COPY(R0, R7),
    INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
};

/* Loaded once a process by udpring_steering_load(), for planes that open later without the right to load it. -1: not. */
static int loaded = -1;

static int load_program(void)
{
    static const char license[] = "Apache-2.0";
    union bpf_attr attributes = {
        .prog_type = BPF_PROG_TYPE_SOCKET_FILTER,
        .insns = (uint64_t)(uintptr_t)program,
        .insn_cnt = UR_ARRAY_LENGTH(program),
        .license = (uint64_t)(uintptr_t)license,
    };
    int fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof(attributes));
    return fd < 0 ? -errno : fd;
}

int32_t udpring_steering_load(void)
{
    if (loaded < 0)
        loaded = load_program();
    return loaded < 0 ? loaded : 0;
}

int tun_steer(const struct tun *tun)
{
    int fd = loaded >= 0 ? loaded : load_program();
    if (fd < 0)
        return fd;
    int result = ioctl(tun->fd, TUNSETSTEERINGEBPF, &fd) == 0 ? 0 : -errno;
    if (fd != loaded)
        close(fd);   /* the device holds it */
    return result;
}
