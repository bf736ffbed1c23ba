/* Replaces libIPSec_MB.so.1 in test_aead.py: the real one on a CPU that appears to have no more than AVX2.
 * -DNO_AES: no AES instructions. -DNOTHING: a library of that name without the functions. */
#ifndef NOTHING
#define _GNU_SOURCE
#include <dlfcn.h>
#include <intel-ipsec-mb.h>
#include <stdlib.h>

static void *real(const char *name)
{
    void *library = dlopen(REAL, RTLD_NOW | RTLD_LOCAL);
    void *found = library ? dlsym(library, name) : NULL;
    if (!found)
        abort();
    return found;
}

__attribute__((visibility("default"))) IMB_MGR *alloc_mb_mgr(uint64_t flags)
{
    return ((IMB_MGR *(*)(uint64_t))real("alloc_mb_mgr"))(flags);
}

__attribute__((visibility("default"))) void free_mb_mgr(IMB_MGR *manager)
{
    ((void (*)(IMB_MGR *))real("free_mb_mgr"))(manager);
}

__attribute__((visibility("default"))) void init_mb_mgr_auto(IMB_MGR *manager, IMB_ARCH *arch)
{
    ((void (*)(IMB_MGR *))real("init_mb_mgr_avx2"))(manager);
    manager->features &= ~(uint64_t)(IMB_FEATURE_AVX512_SKX | IMB_FEATURE_AVX512_IFMA);
#ifdef NO_AES
    manager->features &= ~(uint64_t)IMB_FEATURE_AESNI;
#endif
    if (arch)
        *arch = IMB_ARCH_AVX2;
}

__attribute__((visibility("default"))) int imb_get_errno(IMB_MGR *manager)
{
    return ((int (*)(IMB_MGR *))real("imb_get_errno"))(manager);
}

__attribute__((visibility("default"))) const char *imb_get_strerror(int number)
{
    return ((const char *(*)(int))real("imb_get_strerror"))(number);
}
#else
typedef int nothing;
#endif
