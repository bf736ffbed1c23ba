#include "aead.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "aead_selftest.h"

/* Of each cipher, the best first. */
static const struct aead_impl *const table[] = {
#ifdef UDPRING_IPSECMB
    &aead_ipsecmb,
#endif
    &aead_openssl,
#ifdef UDPRING_IPSECMB
    &aead_ipsecmb_gcm,
#endif
    &aead_openssl_gcm,
};
#define TABLE_LENGTH ((int32_t)UR_ARRAY_LENGTH(table))

/* By cipher. All written once, under the once, before anyone can read them. */
static struct choice {
    const struct aead_impl *impl;
    char why[1024];
} choices[UDPRING_CIPHER_COUNT];
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Each implementation is loaded once, at its first use (by the choice, or by a test that names it). */
static pthread_mutex_t load_lock = PTHREAD_MUTEX_INITIALIZER;
static struct loaded {
    bool done;
    int error;
    struct udpring_reason why;
} loaded[UR_ARRAY_LENGTH(table)];

static int load(int32_t which, struct udpring_reason *why)
{
    if (which < 0 || which >= TABLE_LENGTH)
        return ur_fail(why, -EINVAL, "there is no AEAD implementation number %d", which);
    pthread_mutex_lock(&load_lock);
    struct loaded *state = &loaded[which];
    if (!state->done) {
        state->error = table[which]->load(&state->why);
        state->done = true;
    }
    pthread_mutex_unlock(&load_lock);
    return state->error ? ur_fail(why, state->error, "%s", state->why.text) : 0;
}

int aead_numbered(int32_t which, const struct aead_impl **impl, struct udpring_reason *why)
{
    int error = load(which, why);
    *impl = error ? NULL : table[which];
    return error;
}

const struct aead_impl *aead_of_openssl(enum udpring_cipher cipher)
{
    const struct aead_impl *impl = cipher == UDPRING_CIPHER_AES_256_GCM ? &aead_openssl_gcm : &aead_openssl;
    for (int32_t i = 0; i < TABLE_LENGTH; i++)
        if (table[i] == impl)
            return load(i, NULL) ? NULL : impl;
    return NULL;
}

static void note(struct choice *choice, const char *name, const char *text)
{
    size_t length = strlen(choice->why);
    snprintf(choice->why + length, sizeof(choice->why) - length, "%s%s: %s", length ? "; " : "", name, text);
}

static void choose_for(enum udpring_cipher cipher, const char *wanted)
{
    struct choice *choice = &choices[cipher];
    bool known = false;
    for (int32_t i = 0; i < TABLE_LENGTH && !choice->impl; i++) {
        struct udpring_reason why = { "" };
        if (table[i]->cipher != cipher || (wanted && strcmp(wanted, table[i]->name) != 0))
            continue;
        known = true;
        if (load(i, &why) || (!wanted && table[i]->suits && !table[i]->suits(&why)) || aead_selftest(table[i], &why)) {
            note(choice, table[i]->name, why.text);
            continue;
        }
        note(choice, table[i]->name, wanted ? "forced by UDPRING_AEAD" : "the first that passed its self-test");
        choice->impl = table[i];
    }
    if (wanted && !known) {
        note(choice, "UDPRING_AEAD names no AEAD of this build", wanted);
        for (int32_t i = 0; i < TABLE_LENGTH; i++)
            if (table[i]->cipher == cipher)
                note(choice, "there is", table[i]->name);
    }
}

static void choose(void)
{
    const char *wanted = secure_getenv("UDPRING_AEAD");
    if (wanted && !*wanted)
        wanted = NULL;
    for (int cipher = 0; cipher < UDPRING_CIPHER_COUNT; cipher++)
        choose_for((enum udpring_cipher)cipher, wanted);
}

const struct aead_impl *aead_chosen(enum udpring_cipher cipher)
{
    pthread_once(&once, choose);
    return choices[cipher].impl;
}

const char *aead_why(enum udpring_cipher cipher)
{
    pthread_once(&once, choose);
    return choices[cipher].why;
}

/* ---- the interface to Python ---- */

int32_t udpring_aead_count(void)
{
    return TABLE_LENGTH;
}

const char *udpring_aead_name(int32_t which)
{
    return which >= 0 && which < TABLE_LENGTH ? table[which]->name : NULL;
}

int32_t udpring_aead_cipher(int32_t which)
{
    return which >= 0 && which < TABLE_LENGTH ? (int32_t)table[which]->cipher : -EINVAL;
}

static bool is_cipher(int32_t cipher)
{
    return cipher >= 0 && cipher < UDPRING_CIPHER_COUNT;
}

int32_t udpring_aead_chosen(int32_t cipher)
{
    const struct aead_impl *impl = is_cipher(cipher) ? aead_chosen((enum udpring_cipher)cipher) : NULL;
    for (int32_t i = 0; i < TABLE_LENGTH; i++)
        if (table[i] == impl)
            return i;
    return is_cipher(cipher) ? -ENOTSUP : -EINVAL;
}

const char *udpring_aead_why(int32_t cipher)
{
    return is_cipher(cipher) ? aead_why((enum udpring_cipher)cipher) : "there is no such cipher";
}

int32_t udpring_aead_selftest(int32_t which, struct udpring_reason *why)
{
    const struct aead_impl *impl;
    int error = aead_numbered(which, &impl, why);
    return error ? error : aead_selftest(impl, why);
}
