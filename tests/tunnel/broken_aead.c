/* An AEAD with a selectable defect replaces the real one. The self-test must find the defect, and the choice must skip it.
 * test_aead.py builds this with aead.c, aead_selftest.c and aead_openssl.c, where aead_openssl is renamed sound_aead and
 * aead_openssl_gcm sound_gcm. Arguments: the defect, the cipher's number. Prints the name of the chosen AEAD ("none") and
 * the reasons. */
#include <stdio.h>
#include <stdlib.h>

#include "tunnel/crypto/aead.h"

extern const struct aead_impl sound_aead, sound_gcm;

static const struct aead_impl *sound = &sound_aead;   /* of the requested cipher */

static enum defect { NONE, ABSENT, NO_TAG, SHORT_COUNTER, LAST_OF_BURST, LATE_IN_BURST, WRONG_TEXT, IGNORES_AAD } defect;
static const char *const defects[] = { "none", "absent", "no_tag", "short_counter", "last_of_burst", "late_in_burst",
                                       "wrong_text", "ignores_aad" };

static int load(struct udpring_reason *why)
{
    return defect == ABSENT ? ur_fail(why, -ENOTSUP, "this CPU lacks what it needs") : sound->load(why);
}

static void work(struct aead_key *key, struct aead_op *ops, unsigned count, bool seal)
{
    for (unsigned i = 0; i < count; i++)
        if (defect == SHORT_COUNTER)
            ops[i].counter = (uint32_t)ops[i].counter;
    unsigned done = defect == LAST_OF_BURST && count > 1 ? count - 1 : count;
    (seal ? sound->seal : sound->open)(key, ops, done);
    for (unsigned i = 0; i < count && !seal; i++) {
        if (defect == NO_TAG)
            ops[i].result = 0;
        if (defect == LATE_IN_BURST && i > 7)
            ops[i].result = ops[7].result;
        if (defect == WRONG_TEXT && ops[i].length > AEAD_TAG_BYTES + 512)
            ops[i].out[512] ^= 1;
    }
}

static void seal(struct aead_key *key, struct aead_op *ops, unsigned count)
{
    work(key, ops, count, true);
}

static void open_packets(struct aead_key *key, struct aead_op *ops, unsigned count)
{
    work(key, ops, count, false);
}

static int key_new(struct aead_key **key, const uint8_t bytes[AEAD_KEY_BYTES], bool for_sealing)
{
    return sound->key_new(key, bytes, for_sealing);
}

static void key_free(struct aead_key *key)
{
    sound->key_free(key);
}

static int one_shot(bool for_sealing, const uint8_t key[AEAD_KEY_BYTES], const uint8_t nonce[AEAD_NONCE_BYTES],
                    const uint8_t *aad, uint32_t aad_length, uint8_t *data, uint32_t length)
{
    return sound->one_shot(for_sealing, key, nonce, aad, defect == IGNORES_AAD ? 0 : aad_length, data, length);
}

const struct aead_impl aead_openssl = { .name = "openssl", .cipher = UDPRING_CIPHER_CHACHA20_POLY1305, .load = load,
                                        .key_new = key_new, .key_free = key_free, .seal = seal, .open = open_packets,
                                        .one_shot = one_shot };
const struct aead_impl aead_openssl_gcm = { .name = "openssl", .cipher = UDPRING_CIPHER_AES_256_GCM, .load = load,
                                            .key_new = key_new, .key_free = key_free, .seal = seal, .open = open_packets,
                                            .one_shot = one_shot };

int main(int count, char **arguments)
{
    enum udpring_cipher cipher = count == 3 && atoi(arguments[2]) ? UDPRING_CIPHER_AES_256_GCM
                                                                   : UDPRING_CIPHER_CHACHA20_POLY1305;
    if (cipher == UDPRING_CIPHER_AES_256_GCM)
        sound = &sound_gcm;
    for (unsigned i = 0; i < UR_ARRAY_LENGTH(defects); i++)
        if (count == 3 && strcmp(arguments[1], defects[i]) == 0)
            defect = (enum defect)i;
    const struct aead_impl *chosen = aead_chosen(cipher);
    printf("%s\n%s\n", chosen ? chosen->name : "none", aead_why(cipher));
    return 0;
}
