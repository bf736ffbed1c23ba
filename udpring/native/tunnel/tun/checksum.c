#include "checksum.h"

/* The loop below is plain C. The compiler makes one version of it for each of these and the loader picks (ifunc).
 * One build must run on any x86-64. Elsewhere the baseline's vectors serve. */
#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define VECTOR_VERSIONS __attribute__((target_clones("arch=x86-64-v4", "avx2", "default"), optimize("O3")))
#else
#define VECTOR_VERSIONS
#endif

/* 32-bit words into 64-bit lanes: no carry is lost before 2^32 words. */
VECTOR_VERSIONS static uint64_t sum_words(const uint8_t *bytes, size_t words)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < words; i++) {
        uint32_t word;
        memcpy(&word, bytes + 4 * i, sizeof(word));
        sum += word;
    }
    return sum;
}

uint64_t checksum_add(uint64_t sum, const uint8_t *bytes, size_t length)
{
    sum += sum_words(bytes, length / 4);
    bytes += length & ~(size_t)3;
    if (length & 2) {
        uint16_t word;
        memcpy(&word, bytes, sizeof(word));
        sum += word;
        bytes += 2;
    }
    if (length & 1) {
        uint16_t word = 0;
        memcpy(&word, bytes, 1);    /* the odd byte is followed by a zero one */
        sum += word;
    }
    /* Kept below 2^34, so that many parts may be added. */
    return (sum & 0xffffffffu) + (sum >> 32);
}

void checksum_ipv4_header(uint8_t *header, size_t bytes)
{
    header[10] = header[11] = 0;
    uint16_t sum = (uint16_t)~checksum_fold(checksum_few(header, bytes / 4));
    memcpy(header + 10, &sum, sizeof(sum));
}
