/* The C of the benchmarks. Read as the core's abi.h files are. */
#ifndef UDPRING_TOOLS_NATIVE_ABI_H
#define UDPRING_TOOLS_NATIVE_ABI_H
#include <stdint.h>

/* ---- `udpring bench aead` ---- */
/* Seals (else opens) `rounds` packets of `length` bytes of plaintext, `burst` (1 to 64) a call, from buffer to buffer.
 * Returns the ns of CPU time that took in all, -EINVAL, -ENOTSUP (no such implementation, or it does not load), -ENOMEM. */
int64_t udpring_aead_bench(int32_t which, int32_t seal, uint32_t length, uint32_t burst, uint32_t rounds);

/* ---- `udpring bench udp` ---- */
/* sendmmsg(2) and recvmmsg(2) without UDP_SEGMENT and UDP_GRO, driven from C (baseline.c).
 * `data`: burst * size bytes, which must stay valid. `packed`: a struct udpring_address
 * for each datagram, IPv4. */
struct udpring_baseline;
int32_t udpring_baseline_open(struct udpring_baseline **base, const uint8_t *data, uint32_t size,
                              const void *packed, uint32_t burst);
/* Sends the burst on `out` (-1: does not send) and receives as many datagrams from `in` (-1: does not receive). Returns how
 * many arrived (without `in`: were sent), fewer than all if none arrived for wait_ms; or -errno, -EINTR included. */
int32_t udpring_baseline_run(struct udpring_baseline *base, int32_t out, int32_t in, uint32_t wait_ms);
void udpring_baseline_close(struct udpring_baseline *base);

/* ---- `udpring bench uring` ---- */
/* Clients of a server (stream_load.c). Each of the `count` connected sockets sends a request of `size` bytes and waits for
 * `reply` bytes, again and again for `ns`. `times` gets the ns of the last `room` exchanges. Returns the number of
 * exchanges, or -errno: -ETIMEDOUT if no reply came for 10 s, -EPROTO for more bytes than asked for. */
int64_t udpring_bench_exchange(const int32_t *fds, uint32_t count, const uint8_t *request, uint32_t size, uint32_t reply,
                               int64_t ns, uint32_t *times, uint32_t room);
/* Sends pieces of `size` bytes on up to 64 connected sockets as fast as they are taken, for `ns`. Returns the number of
 * bytes, or -errno. */
int64_t udpring_bench_pour(const int32_t *fds, uint32_t count, const uint8_t *data, uint32_t size, int64_t ns);
/* Serves a listening TCP socket on epoll, with one buffer of `room` bytes (epoll_server.c): returns what it receives
 * (`echo`), or drops it. Returns -errno when it cannot go on. */
int32_t udpring_bench_epoll(int32_t listening, uint32_t room, int32_t echo);
#endif
