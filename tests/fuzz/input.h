/* Shared by all harnesses: reading an input piece by piece, and the claim that ends a run. */
#ifndef UDPRING_FUZZ_INPUT_H
#define UDPRING_FUZZ_INPUT_H
#include "base.h"

#include <stdio.h>
#include <stdlib.h>

/* libFuzzer's entry point. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

/* Stops with the values that contradict the oracle. The fuzzer keeps the input. */
#define CLAIM(condition, ...)                                                  \
    do {                                                                       \
        if (!(condition)) {                                                    \
            fprintf(stderr, "%s:%d: not so: %s: ", __FILE__, __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                                      \
            fputc('\n', stderr);                                               \
            abort();                                                           \
        }                                                                      \
    } while (0)

/* Owner: the harness, on its stack. All bytes past the end are zero. */
struct input {
    const uint8_t *bytes;
    size_t length, at;
};

static inline bool input_left(const struct input *input, size_t bytes)
{
    return input->length - input->at >= bytes;
}

static inline uint8_t input_u8(struct input *input)
{
    return input->at < input->length ? input->bytes[input->at++] : 0;
}

static inline uint32_t input_u16(struct input *input)
{
    uint32_t low = input_u8(input);
    return low | (uint32_t)input_u8(input) << 8;
}

static inline uint32_t input_u32(struct input *input)
{
    uint32_t low = input_u16(input);
    return low | input_u16(input) << 16;
}

static inline void input_copy(struct input *input, void *to, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        ((uint8_t *)to)[i] = input_u8(input);
}

/* Memory of exactly this size, so that the address sanitiser detects a read past its end. */
static inline uint8_t *exactly(const void *bytes, size_t length)
{
    uint8_t *copy = malloc(length ? length : 1);
    CLAIM(copy, "no memory for %zu bytes", length);
    if (length)
        memcpy(copy, bytes, length);
    return copy;
}
#endif
