#include "model_threads.h"

#include "model_kernel.h"

#include <pthread.h>
#include <ucontext.h>

enum { FIBERS_MAX = 4, STACK_BYTES = 256 << 10, DEADLINES_MAX = 10000 };

#ifdef __x86_64__

/* Where a fiber, or the harness, resumes: its stack, with all callee-saved registers on top. swapcontext() would call the
 * kernel for
 * the signal mask, and the address sanitiser would clear the shadow of the whole stack. Both cost more than most passes. */
struct context {
    void *stack;
};

__attribute__((naked, noinline)) static void switch_stack(struct context *from, const struct context *to)
{
    __asm__("pushq %rbp\n\tpushq %rbx\n\tpushq %r12\n\tpushq %r13\n\tpushq %r14\n\tpushq %r15\n\t"
            "movq %rsp, (%rdi)\n\tmovq (%rsi), %rsp\n\t"
            "popq %r15\n\tpopq %r14\n\tpopq %r13\n\tpopq %r12\n\tpopq %rbx\n\tpopq %rbp\n\tretq");
}

static void make_context(struct context *context, uint8_t *stack, size_t bytes, void (*entry)(void))
{
    enum { KEPT = 6 };
    void **top = (void **)(void *)(stack + bytes);
    *--top = NULL;
    *--top = (void *)(uintptr_t)entry;
    for (int i = 0; i < KEPT; i++)
        *--top = NULL;
    context->stack = top;
}

#else

struct context {
    ucontext_t context;
};

static void switch_stack(struct context *from, const struct context *to)
{
    swapcontext(&from->context, &to->context);
}

static void make_context(struct context *context, uint8_t *stack, size_t bytes, void (*entry)(void))
{
    getcontext(&context->context);
    context->context.uc_stack.ss_sp = stack;
    context->context.uc_stack.ss_size = bytes;
    context->context.uc_link = NULL;
    makecontext(&context->context, entry, 0);
}

#endif

/* Owner: this file. */
struct fiber {
    struct context context;
    uint8_t *stack;
    void *(*entry)(void *);
    void *argument;
    bool started, done, waiting;
    uint64_t deadline_ns;
    bool (*ready)(void *context);
    void *ready_context;
};

uint64_t threads_now_ns;
bool (*threads_idle)(void);
uint32_t threads_switches;
static uint64_t runs;                /* of all fibers */
static uint64_t signals;             /* of any condition: a wait may end spuriously */
static struct fiber fibers[FIBERS_MAX];
static uint32_t fiber_count;
static struct fiber *running;       /* NULL: the harness itself */
static struct context main_context;

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FIBERS_ASAN 1
#endif
#endif
#ifdef FIBERS_ASAN
void __sanitizer_start_switch_fiber(void **save, const void *bottom, size_t size);
void __sanitizer_finish_switch_fiber(void *save, const void **bottom, size_t *size);
void __asan_unpoison_memory_region(void const volatile *address, size_t size);
static const void *main_bottom;
static size_t main_size;
#endif

static void to_main(struct fiber *fiber, bool ends)
{
    running = NULL;
#ifdef FIBERS_ASAN
    void *save = NULL;
    __sanitizer_start_switch_fiber(ends ? NULL : &save, main_bottom, main_size);
#endif
    switch_stack(&fiber->context, &main_context);
#ifdef FIBERS_ASAN
    __sanitizer_finish_switch_fiber(save, &main_bottom, &main_size);
#endif
}

static void to_fiber(struct fiber *fiber)
{
    running = fiber;
    runs++;
#ifdef FIBERS_ASAN
    void *save = NULL;
    __sanitizer_start_switch_fiber(&save, fiber->stack, STACK_BYTES);
#endif
    switch_stack(&main_context, &fiber->context);
#ifdef FIBERS_ASAN
    __sanitizer_finish_switch_fiber(save, NULL, NULL);
#endif
}

static void begin(void)
{
    struct fiber *fiber = running;
#ifdef FIBERS_ASAN
    __sanitizer_finish_switch_fiber(NULL, &main_bottom, &main_size);
#endif
    fiber->entry(fiber->argument);
    fiber->done = true;
    to_main(fiber, true);
}

static bool can_run(const struct fiber *fiber)
{
    if (fiber->done)
        return false;
    return !fiber->waiting || threads_now_ns >= fiber->deadline_ns || fiber->ready(fiber->ready_context);
}

void threads_run(void)
{
    CLAIM(!running, "only the harness runs the fibers");
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t i = 0; i < fiber_count; i++)
            if (can_run(&fibers[i])) {
                to_fiber(&fibers[i]);
                moved = true;
            }
    }
}

static uint64_t next_deadline(void)
{
    uint64_t next = UINT64_MAX;
    for (uint32_t i = 0; i < fiber_count; i++)
        if (!fibers[i].done && fibers[i].waiting && fibers[i].deadline_ns < next)
            next = fibers[i].deadline_ns;
    return next;
}

void threads_pass_time(uint64_t ns)
{
    uint64_t until = threads_now_ns + ns;
    threads_run();
    for (uint32_t i = 0; next_deadline() <= until; i++) {
        CLAIM(i < DEADLINES_MAX, "a fiber wakes for ever");
        if (threads_now_ns < next_deadline())
            threads_now_ns = next_deadline();
        threads_run();
    }
    if (threads_now_ns < until)
        threads_now_ns = until;
}

bool threads_wait(bool (*ready)(void *context), void *context, uint64_t deadline_ns)
{
    while (!ready(context)) {
        if (threads_now_ns >= deadline_ns)
            return false;
        if (!running && threads_idle && threads_idle())
            continue;
        if (!running) {   /* the harness's own thread waits, so the clock advances */
            threads_pass_time(deadline_ns - threads_now_ns);
            continue;
        }
        struct fiber *fiber = running;
        fiber->ready = ready;
        fiber->ready_context = context;
        fiber->deadline_ns = deadline_ns;
        fiber->waiting = true;
        to_main(fiber, false);
        fiber->waiting = false;
    }
    return true;
}

static bool at_once(void *context)
{
    bool *before = context, now = *before;
    *before = true;
    return now;
}

void threads_give_way(void)
{
    bool waited = false;
    if (!threads_active || !threads_switches)
        return;
    threads_switches--;
    if (running) {
        (void)threads_wait(at_once, &waited, UINT64_MAX);
        return;
    }
    for (uint32_t i = 0; i < fiber_count; i++)   /* each of them a little */
        if (can_run(&fibers[i]))
            to_fiber(&fibers[i]);
}

void threads_reset(void)
{
    for (uint32_t i = 0; i < fiber_count; i++)
        CLAIM(fibers[i].done, "fiber %u runs still", i);
    fiber_count = 0;
}

/* ---- calls of the core ---- */

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*entry)(void *), void *argument);
int __wrap_pthread_join(pthread_t thread, void **result);
int __wrap_pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex);
int __wrap_pthread_cond_signal(pthread_cond_t *condition);
int __wrap_pthread_cond_broadcast(pthread_cond_t *condition);
int __real_pthread_cond_signal(pthread_cond_t *condition);
int __real_pthread_cond_broadcast(pthread_cond_t *condition);
int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*entry)(void *), void *argument);
int __real_pthread_join(pthread_t thread, void **result);

bool threads_active;

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*entry)(void *), void *argument)
{
    if (!threads_active)
        return __real_pthread_create(thread, attributes, entry, argument);
    int error = kernel_fault(false);
    if (error)
        return error;
    CLAIM(fiber_count < FIBERS_MAX, "too many fibers");
    struct fiber *fiber = &fibers[fiber_count];
    uint8_t *stack = fiber->stack ? fiber->stack : malloc(STACK_BYTES);
    if (!stack)
        return EAGAIN;
    *fiber = (struct fiber){.stack = stack, .entry = entry, .argument = argument};
#ifdef FIBERS_ASAN
    __asan_unpoison_memory_region(stack, STACK_BYTES);   /* the previous fiber ended inside its frames */
#endif
    make_context(&fiber->context, stack, STACK_BYTES, begin);
    *thread = fiber_count++;
    return 0;
}

int __wrap_pthread_join(pthread_t thread, void **result)
{
    if (!threads_active)
        return __real_pthread_join(thread, result);
    for (uint32_t i = 0; !fibers[thread].done; i++) {
        CLAIM(i < DEADLINES_MAX, "a thread does not end");
        threads_run();
        if (!fibers[thread].done)
            threads_pass_time(1000000);
    }
    return 0;
}

/* A fiber that holds a lock may wait (a worker drains its sends within a pass), so another must not stop all of them for it. */
static bool lock_free(void *context)
{
    if (pthread_mutex_trylock(context))
        return false;
    pthread_mutex_unlock(context);
    return true;
}

int __real_pthread_mutex_lock(pthread_mutex_t *mutex);
int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex);

int __wrap_pthread_mutex_lock(pthread_mutex_t *mutex)
{
    if (!threads_active)
        return __real_pthread_mutex_lock(mutex);
    CLAIM(threads_wait(lock_free, mutex, UINT64_MAX), "a lock that is never released");
    return __real_pthread_mutex_lock(mutex);
}

static bool signalled(void *context)
{
    return signals != *(const uint64_t *)context;
}

int __wrap_pthread_cond_signal(pthread_cond_t *condition)
{
    signals++;
    return threads_active ? 0 : __real_pthread_cond_signal(condition);
}

int __wrap_pthread_cond_broadcast(pthread_cond_t *condition)
{
    signals++;
    return threads_active ? 0 : __real_pthread_cond_broadcast(condition);
}

int __wrap_pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    static uint32_t idle;
    static uint64_t before;
    if (running) {
        uint64_t seen = signals;
        pthread_mutex_unlock(mutex);
        (void)threads_wait(signalled, &seen, UINT64_MAX);
        pthread_mutex_lock(mutex);
        return 0;
    }
    idle = runs == before ? idle + 1 : 0;
    before = runs;
    CLAIM(idle < DEADLINES_MAX, "no event will ever end the wait");
    pthread_mutex_unlock(mutex);
    threads_run();
    if (runs == before)   /* nothing happens until the clock advances */
        threads_pass_time(1000000);
    pthread_mutex_lock(mutex);
    return 0;
}
