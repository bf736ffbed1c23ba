/* The AEADs for the packets of the tunnel: one table of functions, an entry for each cipher of each library.
 *
 * ChaCha20-Poly1305 (RFC 8439) is WireGuard's. AES-256-GCM (NIST SP 800-38D) is for peers that are set so at both ends
 * (messages.h). The nonce is 32 zero bits, then the 64-bit counter: little-endian for ChaCha20-Poly1305 (whitepaper 5.4.6),
 * big-endian for AES-256-GCM (Noise specification, section 12). No associated data.
 * seal and open take an array, in place, so that a library that works on several packets at once gets a whole train. */
#ifndef UDPRING_TUNNEL_CRYPTO_AEAD_H
#define UDPRING_TUNNEL_CRYPTO_AEAD_H
#include "../../base.h"

#include <endian.h>

#include "../abi.h"

#define AEAD_KEY_BYTES 32
#define AEAD_NONCE_BYTES 12
#define AEAD_TAG_BYTES 16

/* One packet, worked on in place or from one buffer to another that does not overlap it. Owner: the caller, by whom it is
 * freed: nothing is kept after the call. Thread: the one that calls. */
struct aead_op {
    const uint8_t *in;
    uint8_t *out;       /* seal: length + 16 bytes. open: length - 16 */
    uint32_t length;    /* of in: seal: the plaintext. open: tag included */
    uint64_t counter;
    int32_t result;     /* 0, or -EBADMSG: does not authenticate (out is then garbage), or -EIO: the library failed */
};

struct aead_impl;

/* One key for one direction, ready for use: the key schedule is set once. Each library's file embeds this in its own.
 * `impl` saves the per-packet path from asking aead_chosen().
 * Owner: the keypair. Thread: one at a time. Freed, and zeroised, by impl->key_free(). */
struct aead_key {
    const struct aead_impl *impl;
};

struct aead_impl {
    const char *name;           /* of the library: "openssl". One entry a cipher */
    enum udpring_cipher cipher;
    /* Loads the library. Called once, first. 0, or -errno with the reason (not installed, forbidden). */
    int (*load)(struct udpring_reason *why);
    /* Once loaded: whether this CPU runs it fast, or the reason why not. A forced choice ignores this. NULL: always. */
    bool (*suits)(struct udpring_reason *why);
    /* A key lives for one direction: `seal` says which. -ENOMEM, -EIO. The bytes remain the caller's to zeroise. */
    int (*key_new)(struct aead_key **key, const uint8_t bytes[AEAD_KEY_BYTES], bool seal);
    void (*key_free)(struct aead_key *key);   /* zeroises. NULL is fine */
    void (*seal)(struct aead_key *key, struct aead_op *ops, unsigned count);
    void (*open)(struct aead_key *key, struct aead_op *ops, unsigned count);
    /* For handshakes and tests: any nonce, associated data, in place. `data` is laid out as in aead_op. 0, -EBADMSG, -EIO, -ENOMEM. */
    int (*one_shot)(bool seal, const uint8_t key[AEAD_KEY_BYTES], const uint8_t nonce[AEAD_NONCE_BYTES],
                    const uint8_t *aad, uint32_t aad_length, uint8_t *data, uint32_t length);
};

/* The implementation of a cipher in use: the first in the table that loads, suits the CPU and passes its self-test, or that
 * of the library which the environment variable UDPRING_AEAD names. Found once, at the first call. Any thread. NULL if
 * there is none: aead_why() says why. */
const struct aead_impl *aead_chosen(enum udpring_cipher cipher);
/* Why the chosen one was chosen and others were not, in words. */
const char *aead_why(enum udpring_cipher cipher);

/* OpenSSL's, for single messages of handshakes. Any thread. NULL: it does not load. */
const struct aead_impl *aead_of_openssl(enum udpring_cipher cipher);

/* Number `which` of the table, loaded. 0. -EINVAL: there is none of that number. Another -errno: it does not load. */
int aead_numbered(int32_t which, const struct aead_impl **impl, struct udpring_reason *why) UR_MUST_CHECK;

static inline void aead_nonce(uint8_t nonce[AEAD_NONCE_BYTES], enum udpring_cipher cipher, uint64_t counter)
{
    uint64_t laid_out = cipher == UDPRING_CIPHER_AES_256_GCM ? htobe64(counter) : htole64(counter);
    memset(nonce, 0, 4);
    memcpy(nonce + 4, &laid_out, sizeof(laid_out));
}

extern const struct aead_impl aead_openssl, aead_openssl_gcm;
#ifdef UDPRING_IPSECMB    /* build.py found its header */
extern const struct aead_impl aead_ipsecmb, aead_ipsecmb_gcm;
#endif
#endif
