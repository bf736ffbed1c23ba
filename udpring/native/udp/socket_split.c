/* The group's program sees the UDP payload at offset 0 and the IP header at SKF_NET_OFF. It returns the index of a socket in
 * the group. A load beyond the end returns 0, so datagrams shorter than four bytes go to the separate socket. An index without
 * a socket would not drop the datagram: the kernel falls back to a hash of the addresses. A socket's filter sees the UDP header
 * first. It returns the number of bytes to keep. 0 drops the datagram. Sources: socket(7) SO_ATTACH_REUSEPORT_CBPF,
 * Documentation/networking/filter.rst, net/core/sock_reuseport.c. */
#include "socket_split.h"

#include <linux/filter.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#ifndef SO_ATTACH_REUSEPORT_CBPF
#define SO_ATTACH_REUSEPORT_CBPF 51
#endif

enum { PROGRAM_MAX = 96, UDP_HEADER = 8 };

struct program {
    struct sock_filter code[PROGRAM_MAX];
    uint16_t length;
};

static void put(struct program *program, uint16_t code, uint32_t k)
{
    program->code[program->length++] = (struct sock_filter)BPF_STMT(code, k);
}

/* A forward jump: to `then` if the comparison holds, to `otherwise` if not. Both are indexes in the program. */
static void put_jump(struct program *program, uint16_t compare, uint32_t k, uint32_t then, uint32_t otherwise)
{
    uint32_t next = program->length + 1u;
    program->code[program->length++] =
        (struct sock_filter)BPF_JUMP((uint16_t)(BPF_JMP | compare | BPF_K), k, (uint8_t)(then - next), (uint8_t)(otherwise - next));
}

/* Combines the sender's port (and ours) and its address into one word. */
static void put_sender(struct program *program, int family)
{
    const uint32_t ip = (uint32_t)SKF_NET_OFF;
    if (family == AF_INET) {
        put(program, BPF_LD | BPF_B | BPF_ABS, ip);
        put(program, BPF_ALU | BPF_AND | BPF_K, 15);
        put(program, BPF_ALU | BPF_LSH | BPF_K, 2);
        put(program, BPF_MISC | BPF_TAX, 0);
        put(program, BPF_LD | BPF_W | BPF_IND, ip);
        put(program, BPF_MISC | BPF_TAX, 0);
        put(program, BPF_LD | BPF_W | BPF_ABS, ip + 12);
        put(program, BPF_ALU | BPF_XOR | BPF_X, 0);
        return;
    }
    /* With extension headers the ports are elsewhere. For such a sender the word at this offset is used instead. */
    put(program, BPF_LD | BPF_W | BPF_ABS, ip + 40);
    for (uint32_t at = 8; at < 24; at += 4) {
        put(program, BPF_MISC | BPF_TAX, 0);
        put(program, BPF_LD | BPF_W | BPF_ABS, ip + at);
        put(program, BPF_ALU | BPF_XOR | BPF_X, 0);
    }
}

/* Instructions that put_separate() writes for each kind of message. */
enum { SEPARATE_STEPS = 5 };

/* Jumps to `then` for whole messages of a separate kind, and to `otherwise` if such a first word has another length. Falls
 * through for any other first word. The word must be loaded. `header` bytes precede the payload. */
static void put_separate(struct program *program, const struct udp_split *split, uint32_t header, uint32_t then,
                      uint32_t otherwise)
{
    for (uint32_t i = 0; i < split->separates; i++) {
        uint32_t next = program->length + SEPARATE_STEPS;
        put_jump(program, BPF_JEQ, split->separate[i].word, program->length + 1u, next);
        put(program, BPF_LD | BPF_W | BPF_LEN, 0);
        put(program, BPF_ALU | BPF_SUB | BPF_K, header);
        put(program, BPF_ALU | BPF_MOD | BPF_K, split->separate[i].bytes);
        put_jump(program, BPF_JEQ, 0, then, otherwise);
    }
}

static void build(struct program *program, int family, const struct udp_split *split, uint32_t count, uint32_t odd)
{
    uint32_t other = 1 + split->words + split->separates * SEPARATE_STEPS, many = other + 2, separate = many + 2, choose = separate + 1;
    *program = (struct program){.length = 0};
    put(program, BPF_LD | BPF_W | BPF_ABS, 0);
    for (uint32_t i = 0; i < split->words; i++)
        put_jump(program, BPF_JEQ, split->word[i], many, program->length + 1u);
    put_separate(program, split, 0, separate, other);
    /* other: a train with such a first word may contain messages for the other sockets */
    put(program, BPF_LD | BPF_W | BPF_LEN, 0);
    put_jump(program, BPF_JGE, split->train_least, choose, separate);
    /* many: */
    put(program, BPF_LD | BPF_W | BPF_LEN, 0);
    put_jump(program, BPF_JGE, split->least, choose, separate);
    /* separate: */
    put(program, BPF_RET | BPF_K, 0);
    /* choose: */
    if (count == 1) {
        put(program, BPF_RET | BPF_K, 1);
        return;
    }
    put_sender(program, family);
    put(program, BPF_ALU | BPF_MUL | BPF_K, odd);   /* secret, so that a sender cannot choose its ports by it */
    put(program, BPF_ALU | BPF_RSH | BPF_K, 16);
    put(program, BPF_ALU | BPF_MOD | BPF_K, count);
    put(program, BPF_ALU | BPF_ADD | BPF_K, 1);
    put(program, BPF_RET | BPF_A, 0);
}

_Static_assert(PROGRAM_MAX >= 1 + UDP_SPLIT_WORDS_MAX + UDP_SPLIT_SEPARATE_MAX * SEPARATE_STEPS + 5 + 13 + 5,
               "the longest program: IPv6, several sockets");

int udp_split_filter(int fd, const struct udp_split *split)
{
    struct program program = {.length = 0};
    uint32_t many = 2 + split->words + split->separates * SEPARATE_STEPS, discard = many + 2, keep = discard + 1;
    put(&program, BPF_LD | BPF_W | BPF_ABS, UDP_HEADER);
    for (uint32_t i = 0; i < split->words; i++)
        put_jump(&program, BPF_JEQ, split->word[i], many, program.length + 1u);
    put_separate(&program, split, UDP_HEADER, keep, discard);
    put_jump(&program, BPF_JEQ, 0, discard, discard);
    /* many: without UDP_GRO the program chose by the whole train, but the filter sees its segments */
    put(&program, BPF_LD | BPF_W | BPF_LEN, 0);
    put_jump(&program, BPF_JGE, UDP_HEADER + split->least, keep, discard);
    put(&program, BPF_RET | BPF_K, 0);
    put(&program, BPF_RET | BPF_K, UINT32_MAX);
    struct sock_fprog attached = {.len = program.length, .filter = program.code};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &attached, sizeof(attached)) ? -errno : 0;
}

int udp_split_attach(int fd, int family, const struct udp_split *split, uint32_t count, struct udpring_reason *why)
{
    struct program program;
    uint32_t odd = 2654435761u;
    if (count > 1 && getrandom(&odd, sizeof(odd), GRND_NONBLOCK) != sizeof(odd))
        odd = 2654435761u;   /* no random numbers yet, early at boot */
    build(&program, family, split, count, odd | 1);
    struct sock_fprog attached = {.len = program.length, .filter = program.code};
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &attached, sizeof(attached)))
        return ur_fail(why, -errno, "SO_ATTACH_REUSEPORT_CBPF: %s", strerror(errno));
    return 0;
}

int udp_split_works(const struct udp_split *split, struct udpring_reason *why)
{
    int family = AF_INET;
    int fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 && errno == EAFNOSUPPORT)
        fd = socket(family = AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ur_fail(why, -errno, "no UDP socket to try it on: %s", strerror(errno));
    int on = 1, code = setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) ? -errno : 0;
    code = code ? ur_fail(why, code, "SO_REUSEPORT: %s", strerror(-code)) : udp_split_attach(fd, family, split, 1, why);
    close(fd);
    return code;
}
