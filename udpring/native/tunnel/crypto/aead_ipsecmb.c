/* ChaCha20-Poly1305 by Intel's Multi-Buffer Crypto for IPsec: half of OpenSSL's time on CPUs with AVX-512 IFMA. Compiled if the
 * header is installed (build.py), and loaded at run time, so that one build also works on hosts without the library. A wheel
 * has the library beside the modules.
 *
 * The job interface is faster than the direct one: it makes the key stream and the Poly1305 key together. The library does not
 * spread this cipher over several buffers: a job is done when its submission returns, and a burst is no faster than single
 * jobs. So each packet is one job, and no job stays in the queue.
 *
 * A manager (200 KB) has a queue and so belongs to one thread. Each thread makes its own with its first key. The end of the
 * thread frees it. A key is just 32 bytes, so any thread may use it, one at a time. */
#ifdef UDPRING_IPSECMB
#ifndef _GNU_SOURCE
#define _GNU_SOURCE     /* dladdr */
#endif
#include <dlfcn.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdlib.h>

#include "../../secret.h"

#include "aead.h"
#include "aead_ipsecmb.h"

/* The version of the interface is that of the header: the manager's layout is part of it. */
#define TEXT_OF(number) #number
#define SONAME(major) "libIPSec_MB.so." TEXT_OF(major)
#if IMB_VERSION_NUM < IMB_VERSION(2, 0, 0)
#define LIBRARY SONAME(1)
#else
#define LIBRARY SONAME(2)
#endif

/* The CPU feature that makes Poly1305 fast. Without it the library uses general registers. */
#define FEATURES_WANTED (IMB_FEATURE_AVX512_SKX | IMB_FEATURE_AVX512_IFMA)

struct ipsecmb_key {
    struct aead_key base;
    uint8_t bytes[AEAD_KEY_BYTES];
    bool seal;
};

/* Set once by ipsecmb_library(), before all else. The library stays for the life of the process. */
static IMB_MGR *(*manager_alloc)(uint64_t flags);
static void (*manager_free)(IMB_MGR *manager);
static void (*manager_init)(IMB_MGR *manager, IMB_ARCH *arch);
static int (*manager_errno)(IMB_MGR *manager);
static const char *(*error_text)(int number);
static bool found_all;

/* Set once by load(). */
static pthread_key_t thread_end;
static uint64_t features;

/* Owner and only user: its thread. Freed by thread_end's destructor. */
static _Thread_local IMB_MGR *own_manager;

static void manager_at_thread_end(void *manager)
{
    own_manager = NULL;
    manager_free(manager);
}

int ipsecmb_manager_new(IMB_MGR **made, struct udpring_reason *why)
{
    IMB_MGR *manager = manager_alloc(0);
    if (!manager)
        return ur_fail(why, -ENOMEM, "no memory for a manager of " LIBRARY);
    manager_init(manager, NULL);
    int error = manager_errno(manager);
    if (error) {
        ur_fail(why, -ENOTSUP, LIBRARY " cannot work here: %s", error_text(error));
        manager_free(manager);
        return -ENOTSUP;
    }
    *made = manager;
    return 0;
}

void ipsecmb_manager_free(IMB_MGR *manager)
{
    manager_free(manager);
}

/* Makes this thread's manager. */
static int manager_new(struct udpring_reason *why)
{
    IMB_MGR *manager;
    int error = ipsecmb_manager_new(&manager, why);
    if (error)
        return error;
    if (pthread_setspecific(thread_end, manager)) {
        manager_free(manager);
        return ur_fail(why, -ENOMEM, "no memory for a thread's manager of " LIBRARY);
    }
    own_manager = manager;
    return 0;
}

static int manager_ready(IMB_MGR **manager, struct udpring_reason *why)
{
    *manager = own_manager;
    if (ur_likely(*manager != NULL))
        return 0;
    int error = manager_new(why);
    *manager = own_manager;
    return error;
}

static bool find(void *library, const char *name, void *function, struct udpring_reason *why)
{
    void *found = dlsym(library, name);
    memcpy(function, &found, sizeof(found));    /* ISO C has no cast from an object's pointer to a function's */
    if (!found)
        ur_fail(why, -ENOTSUP, LIBRARY " lacks %s", name);
    return found;
}

/* The library that a wheel brings along, if this module is of one, or the host's. */
static void *open_library(void)
{
#ifdef UDPRING_BUNDLED_IPSECMB
    Dl_info self;
    const char *end;
    char path[4096];
    if (dladdr(&found_all, &self) && (end = strrchr(self.dli_fname, '/')) &&
        (size_t)snprintf(path, sizeof(path), "%.*s/" UDPRING_BUNDLED_IPSECMB, (int)(end - self.dli_fname), self.dli_fname) <
            sizeof(path)) {
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (library)
            return library;
    }
#endif
    return dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
}

int ipsecmb_library(struct udpring_reason *why)
{
    if (found_all)
        return 0;
    void *library = open_library();
    if (!library)
        return ur_fail(why, -ENOTSUP, "cannot be loaded: %s", dlerror());
    if (!find(library, "alloc_mb_mgr", &manager_alloc, why) || !find(library, "free_mb_mgr", &manager_free, why) ||
        !find(library, "init_mb_mgr_auto", &manager_init, why) || !find(library, "imb_get_errno", &manager_errno, why) ||
        !find(library, "imb_get_strerror", &error_text, why))
        return -ENOTSUP;
    found_all = true;
    return 0;
}

static int load(struct udpring_reason *why)
{
    int error = ipsecmb_library(why);
    if (error)
        return error;
    error = pthread_key_create(&thread_end, manager_at_thread_end);
    if (error)
        return ur_fail(why, -error, "no room for a thread's data: %s", strerror(error));
    error = manager_new(why);
    if (!error)
        features = own_manager->features;
    return error;
}

static bool suits(struct udpring_reason *why)
{
    if ((features & FEATURES_WANTED) == FEATURES_WANTED)
        return true;
    ur_fail(why, -ENOTSUP, "this CPU lacks AVX-512 with IFMA, and ipsec-mb gains little without it");
    return false;
}

static void key_free(struct aead_key *key)
{
    if (!key)
        return;
    secret_free(key, sizeof(struct ipsecmb_key));
}

static int key_new(struct aead_key **key, const uint8_t bytes[AEAD_KEY_BYTES], bool seal)
{
    IMB_MGR *manager;
    int error = manager_ready(&manager, NULL);    /* now, so that no packet of this thread can fail for lack of it */
    if (error)
        return error == -ENOTSUP ? -EIO : error;
    struct ipsecmb_key *made = secret_new(sizeof(*made));
    if (!made)
        return -ENOMEM;
    made->base.impl = &aead_ipsecmb;
    memcpy(made->bytes, bytes, sizeof(made->bytes));
    made->seal = seal;
    *key = &made->base;
    return 0;
}

/* One packet of `text` bytes without its tag, which goes to `tag`. `manager`: this thread's. A look-up is a call. */
struct task {
    IMB_MGR *manager;
    const uint8_t *key, *nonce, *aad, *in;
    uint8_t *out, *tag;
    uint32_t aad_length, text;
    bool seal;
};

static int run(const struct task *task)
{
    IMB_MGR *manager = task->manager;
    IMB_JOB *job = IMB_GET_NEXT_JOB(manager);
    job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
    job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
    job->cipher_direction = task->seal ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
    job->chain_order = task->seal ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
    job->enc_keys = job->dec_keys = task->key;
    job->key_len_in_bytes = AEAD_KEY_BYTES;
    job->iv = task->nonce;
    job->iv_len_in_bytes = AEAD_NONCE_BYTES;
    job->u.CHACHA20_POLY1305.aad = task->aad;
    job->u.CHACHA20_POLY1305.aad_len_in_bytes = task->aad_length;
    job->src = task->in;
    job->dst = task->out;
    job->cipher_start_src_offset_in_bytes = job->hash_start_src_offset_in_bytes = 0;
    job->msg_len_to_cipher_in_bytes = job->msg_len_to_hash_in_bytes = task->text;
    job->auth_tag_output = task->tag;
    job->auth_tag_output_len_in_bytes = AEAD_TAG_BYTES;
    /* Unchecked: all fields are set above, and the check costs 5 % of a small packet. */
    const IMB_JOB *done = IMB_SUBMIT_JOB_NOCHECK(manager);
    if (ur_likely(done == job && done->status == IMB_STATUS_COMPLETED))
        return 0;
    while (IMB_FLUSH_JOB(manager))
        ;    /* nothing of a failed job stays behind */
    return -EIO;
}

/* task->text is set. The tag sent along stands behind it. */
static int open_checked(struct task *task)
{
    uint8_t computed[AEAD_TAG_BYTES];
    task->tag = computed;
    int error = run(task);
    if (!error && CRYPTO_memcmp(computed, task->in + task->text, sizeof(computed)) != 0)
        error = -EBADMSG;
    return error;
}

static void work(struct aead_key *key, struct aead_op *ops, unsigned count)
{
    const struct ipsecmb_key *own = (const struct ipsecmb_key *)key;
    uint8_t nonce[AEAD_NONCE_BYTES];
    struct task task = { .key = own->bytes, .nonce = nonce, .seal = own->seal };
    int error = manager_ready(&task.manager, NULL);
    for (unsigned i = 0; i < count; i++) {
        struct aead_op *op = &ops[i];
        if (ur_unlikely(error)) {
            op->result = -EIO;
            continue;
        }
        if (ur_unlikely(!own->seal && op->length < AEAD_TAG_BYTES)) {
            op->result = -EBADMSG;
            continue;
        }
        aead_nonce(nonce, UDPRING_CIPHER_CHACHA20_POLY1305, op->counter);
        task.in = op->in;
        task.out = op->out;
        if (own->seal) {
            task.text = op->length;
            task.tag = op->out + op->length;
            op->result = run(&task);
        } else {
            task.text = op->length - AEAD_TAG_BYTES;
            op->result = open_checked(&task);
        }
    }
}

static int one_shot(bool seal, const uint8_t key[AEAD_KEY_BYTES], const uint8_t nonce[AEAD_NONCE_BYTES],
                    const uint8_t *aad, uint32_t aad_length, uint8_t *data, uint32_t length)
{
    if (!seal && length < AEAD_TAG_BYTES)
        return -EBADMSG;
    IMB_MGR *manager;
    int error = manager_ready(&manager, NULL);
    if (error)
        return error == -ENOTSUP ? -EIO : error;
    struct task task = { .manager = manager, .key = key, .nonce = nonce, .aad = aad, .aad_length = aad_length, .in = data,
                         .out = data, .text = seal ? length : length - AEAD_TAG_BYTES, .seal = seal };
    if (!seal)
        return open_checked(&task);
    task.tag = data + length;
    return run(&task);
}

const struct aead_impl aead_ipsecmb = {
    .name = "ipsec-mb",
    .cipher = UDPRING_CIPHER_CHACHA20_POLY1305,
    .load = load,
    .suits = suits,
    .key_new = key_new,
    .key_free = key_free,
    .seal = work,
    .open = work,
    .one_shot = one_shot,
};
#else
typedef int udpring_built_without_ipsecmb;    /* ISO C wants a declaration in each file */
#endif
