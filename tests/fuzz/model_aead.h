/* A cipher for the harness: as fast as a checksum, and not secret. As with a real one, a message sealed with another key,
 * counter
 * or length does not open. It records each nonce. */
#ifndef UDPRING_FUZZ_MODEL_AEAD_H
#define UDPRING_FUZZ_MODEL_AEAD_H
#include "input.h"
#include "tunnel/crypto/aead.h"

/* The first bytes of a key. */
uint64_t model_secret(const uint8_t key[AEAD_KEY_BYTES]);
/* length bytes, then the tag. */
void model_seal(uint64_t secret, uint64_t counter, const uint8_t *in, uint32_t length, uint8_t *out);
/* In and out may be the same. False: not authentic. */
bool model_open(uint64_t secret, uint64_t counter, const uint8_t *in, uint32_t sealed_length, uint8_t *out);

/* What the core has done with the cipher. */
extern struct model_aead {
    int32_t keys;               /* alive */
    uint64_t sealed, opened, empty_opened;
    uint64_t fail_seal_at;      /* the seal with this number fails; 0: none */
} model_aead;

/* Call before each input. */
void model_aead_reset(void);
/* A message with this nonce leaves the host. The core must have sealed it, unchanged, and not sent it before. */
void model_nonce_leaves(uint64_t secret, uint64_t counter, const uint8_t *sealed, uint32_t length);
#endif
