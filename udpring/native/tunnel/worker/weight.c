#include "weight.h"

#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../limits.h"

void weight_open(struct weight *weight)
{
    pthread_mutex_init(&weight->lock, NULL);
    weight->group_fd = -1;
}

/* Under the lock. */
static bool group_set(struct weight *weight, int32_t nice)
{
    char text[16];
    int length = snprintf(text, sizeof(text), "%d", nice);
    ssize_t sent = send(weight->group_fd, text, (size_t)length, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == ENOTSOCK)
        sent = write(weight->group_fd, text, (size_t)length);
    if (sent != length)
        return false;
    weight->group_now = nice;
    return true;
}

/* The session gets its usual weight again. */
static void group_leave(struct weight *weight)
{
    if (weight->group_fd < 0)
        return;
    if (weight->group_now != weight->group_usual)
        (void)group_set(weight, weight->group_usual);
    close(weight->group_fd);
    weight->group_fd = -1;
}

void weight_close(struct weight *weight)
{
    group_leave(weight);
    pthread_mutex_destroy(&weight->lock);
}

void weight_ask(struct weight *weight, int32_t nice, int32_t group_fd, int32_t group_usual)
{
    pthread_mutex_lock(&weight->lock);
    group_leave(weight);
    weight->group_fd = group_fd;
    weight->group_usual = group_usual;
    weight->group_now = nice;
    weight->group_refused = false;
    weight->not_before_ns = 0;
    __atomic_store_n(&weight->pending, false, __ATOMIC_RELAXED);
    __atomic_store_n(&weight->nice, nice, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&weight->lock);
}

/* Under the lock. */
static void change_group(struct weight *weight, int32_t nice, uint64_t now)
{
    bool wanted = nice != weight->group_now && !weight->group_refused;
    if (wanted && now >= weight->not_before_ns) {
        weight->group_refused = !group_set(weight, nice) && errno != EAGAIN;   /* EAGAIN: another session was changed just now */
        weight->not_before_ns = now + GROUP_WEIGHT_NS;
    }
    __atomic_store_n(&weight->pending, nice != weight->group_now && !weight->group_refused, __ATOMIC_RELAXED);
}

/* nice 0: the usual one. */
static void change_own(struct own_weight *own, int32_t nice)
{
    if (own->refused || own->now == nice)
        return;
    errno = 0;
    if (!own->now)
        own->usual = getpriority(PRIO_PROCESS, 0);
    if (!own->now && !errno && own->usual <= nice)
        return;    /* the user gave the thread a lower one */
    own->refused = errno || setpriority(PRIO_PROCESS, 0, nice ? nice : own->usual) != 0;
    if (!own->refused)
        __atomic_store_n(&own->now, nice, __ATOMIC_RELAXED);
}

void weight_see(struct weight *weight, struct own_weight *own, bool as_usual, uint64_t now)
{
    int32_t nice = __atomic_load_n(&weight->nice, __ATOMIC_RELAXED);
    if (ur_likely(own->as_usual == as_usual && own->seen == nice && !__atomic_load_n(&weight->pending, __ATOMIC_RELAXED)))
        return;
    pthread_mutex_lock(&weight->lock);
    weight->as_usual += (uint32_t)as_usual - (uint32_t)own->as_usual;
    own->as_usual = as_usual;
    own->seen = nice;
    bool by_group = weight->group_fd >= 0;
    if (by_group)
        change_group(weight, weight->as_usual ? weight->group_usual : nice, now);
    pthread_mutex_unlock(&weight->lock);
    if (!by_group)
        change_own(own, as_usual ? 0 : nice);
}

void weight_want(struct weight *weight, uint64_t until_ns)
{
    uint64_t now_until = __atomic_load_n(&weight->sparse_until_ns, __ATOMIC_RELAXED);
    if (until_ns > now_until + SPARSE_HOLD_NS / 4)    /* not a shared write for each packet */
        __atomic_store_n(&weight->sparse_until_ns, until_ns, __ATOMIC_RELAXED);
}

int64_t weight_patience(const struct weight *weight, const struct own_weight *own)
{
    if (ur_unlikely(own->as_usual))
        return MODERATION_WINDOW_NS;
    return ur_unlikely(__atomic_load_n(&weight->pending, __ATOMIC_RELAXED)) ? (int64_t)GROUP_WEIGHT_NS : -1;
}

int32_t weight_now(struct weight *weight, const struct own_weight *own)
{
    pthread_mutex_lock(&weight->lock);
    int32_t group = weight->group_fd >= 0 && weight->group_now != weight->group_usual ? weight->group_now : 0;
    pthread_mutex_unlock(&weight->lock);
    return group ? group : __atomic_load_n(&own->now, __ATOMIC_RELAXED);
}
