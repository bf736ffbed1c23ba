/* Opening and closing a plane. */
#include "../../secret.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "command.h"
#include "cookies.h"
#include "peers.h"
#include "rings.h"
#include "route_watch.h"
#include "spread.h"
#include "worker.h"

uint32_t udpring_plane_workers(uint32_t asked)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t wanted = asked ? asked : 1 + (cores > 4 ? (uint32_t)(cores - 1) / 4 : 0);
    return wanted < WORKERS_MAX ? wanted : WORKERS_MAX;
}

/* One for each descriptor that the caller opened. */
static uint32_t workers_wanted(const struct udpring_plane_options *options)
{
    uint32_t count = options->fd_count ? options->fd_count : options->workers;
    return udpring_plane_workers(count);
}

static void worker_free(struct worker *worker)
{
    mac_engine_close(&worker->mac);
    cookie_sealer_close(&worker->cookie_sealer);
    if (worker->wake_fd >= 0)
        close(worker->wake_fd);
    if (worker->port)
        worker->tun.fd = -1;   /* the port's */
    tun_close(&worker->tun);
    worker_memory_close(worker);
    flow_queue_close(worker->flows);
    spread_close(worker->spread);
    wanted_close(worker->wanted);
    pthread_mutex_destroy(&worker->running);
}

/* Everything but the workers' rings, which they open and close themselves. */
static void plane_free(struct udpring_plane *plane)
{
    routes_close(&plane->routes);
    plane_peers_free(plane);
    if (plane->trie)
        trie_free(plane->trie);
    index_table_close(&plane->indices);
    for (uint32_t i = 0; i < plane->worker_count; i++) {
        worker_free(&plane->workers[i]);
        for (int family = 0; family < 2; family++)
            if (plane->group[i][family] >= 0)
                close(plane->group[i][family]);
    }
    for (int family = 0; family < 2; family++)
        if (plane->group_handshakes[family] >= 0)
            close(plane->group_handshakes[family]);
    free(plane->workers);
    packet_ports_close(plane->ports);
    handshake_threads_close(&plane->handshakes);
    weight_close(&plane->weight);
    mailbox_close(&plane->mailbox);
    pthread_mutex_t *locks[] = {&plane->command_lock, &plane->mailbox_lock, &plane->gate, &plane->change_lock,
                                &plane->routes.lock, &plane->routes.links_lock, &plane->routes.asked_lock};
    for (size_t i = 0; i < UR_ARRAY_LENGTH(locks); i++)
        pthread_mutex_destroy(locks[i]);
    pthread_cond_destroy(&plane->command_done);
    secret_free(plane, sizeof(*plane));
}

static struct udpring_plane *plane_new(const struct udpring_plane_options *options)
{
    struct udpring_plane *plane = secret_new(sizeof(*plane));   /* with the cookie secrets */
    uint32_t count = workers_wanted(options);
    struct worker *workers = calloc(count, sizeof(*workers));
    if (!plane || !workers) {
        secret_free(plane, sizeof(*plane));
        free(workers);
        return NULL;
    }
    plane->options = *options;
    plane->mailbox.fd = -1;
    plane->routes.lookup_fd = plane->routes.notice_fd = plane->routes.wake_fd = -1;
    plane->workers = workers;
    plane->worker_count = count;
    pthread_mutex_t *locks[] = {&plane->command_lock, &plane->mailbox_lock, &plane->gate, &plane->change_lock,
                                &plane->routes.lock, &plane->routes.links_lock, &plane->routes.asked_lock};
    for (size_t i = 0; i < UR_ARRAY_LENGTH(locks); i++)
        pthread_mutex_init(locks[i], NULL);
    pthread_cond_init(&plane->command_done, NULL);
    handshake_threads_init(&plane->handshakes);
    weight_open(&plane->weight);
    for (uint32_t i = 0; i < count; i++) {
        struct worker *worker = &workers[i];
        worker->plane = plane;
        worker->number = i;
        worker->train = -1;
        worker->staged.most = STAGED_BYTES_MAX / count;
        worker->coalescer.tun = &worker->tun;
        worker->wake_fd = worker->tun.fd = worker->tun.query_fd = worker->fd[0] = worker->fd[1] = -1;
        plane->group[i][0] = plane->group[i][1] = plane->group_handshakes[0] = plane->group_handshakes[1] = -1;
        worker->handshakes.fd[0] = worker->handshakes.fd[1] = -1;
        pthread_mutex_init(&worker->running, NULL);
    }
    return plane;
}

static int refused(struct udpring_reason *why, int code, const char *part)
{
    return ur_fail(why, code, "no %s: %s", part, strerror(-code));
}

static int parts_open(struct udpring_plane *plane, struct udpring_reason *why)
{
    if (!aead_chosen(UDPRING_CIPHER_CHACHA20_POLY1305))
        return ur_fail(why, -ENOTSUP, "%s", aead_why(UDPRING_CIPHER_CHACHA20_POLY1305));
    int result = mailbox_open(&plane->mailbox, plane->options.mailbox ? plane->options.mailbox : MAILBOX_DEFAULT);
    if (result < 0)
        return refused(why, result, "mailbox (eventfd)");
    result = cookies_renew(plane, ur_clock_ns(CLOCK_BOOTTIME));
    if (result < 0)
        return refused(why, result, "cookie secret (getrandom)");
    result = index_table_open(&plane->indices);
    if (result < 0)
        return refused(why, result, "table of receiver indices (getrandom)");
    if (!(plane->trie = trie_new()))
        return refused(why, -ENOMEM, "table of allowed IPs");
    for (uint32_t i = 0; i < plane->worker_count && result == 0; i++) {
        struct worker *worker = &plane->workers[i];
        worker->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (worker->wake_fd < 0)
            return refused(why, -errno, "wake-up of a worker (eventfd)");
        result = worker_memory_open(worker);
        if (result < 0)
            return refused(why, result, "memory for packets (mmap of 17 MiB)");
        if (plane_shared(plane) && (result = spread_open(&worker->spread)) < 0)
            return refused(why, result, "memory for jobs of workers");
        if (!(plane->options.flags & UDPRING_PLANE_PACKETS) && (result = flow_queue_open(&worker->flows)) < 0)
            return refused(why, result, "queue for packets of the interface (mmap of 5 MiB, getrandom)");
        if (plane->options.flags & UDPRING_PLANE_ASKS &&
            (result = wanted_open(&worker->wanted, WANTED_BYTES_MAX / plane->worker_count)) < 0)
            return refused(why, result, "memory for packets without a peer");
        result = mac_engine_open(&worker->mac, why);
        if (result == 0)
            result = cookie_sealer_open(&worker->cookie_sealer, why);
    }
    return result;
}

/* In place of the device. */
static int ports_open(struct udpring_plane *plane, struct udpring_reason *why)
{
    const struct udpring_plane_options *options = &plane->options;
    int code = 0;
    plane->ports = packet_ports_open(plane->worker_count, options->packets_out_bytes, options->packets_in_bytes, &code, why);
    if (!plane->ports)
        return code;
    snprintf(plane->name, sizeof(plane->name), "%.*s", (int)sizeof(plane->name) - 1, options->name);
    for (uint32_t i = 0; i < plane->worker_count; i++) {
        struct worker *worker = &plane->workers[i];
        worker->port = &plane->ports->port[i];
        worker->no_tun = true;
        worker->tun.fd = worker->port->sent.fd;
        worker->tun.mtu = options->mtu ? options->mtu : 1420;
    }
    return 0;
}

static int device_open(struct udpring_plane *plane, struct udpring_reason *why)
{
    const struct udpring_plane_options *options = &plane->options;
    struct tun *first = &plane->workers[0].tun;
    char name[sizeof(options->name)];
    snprintf(name, sizeof(name), "%.*s", (int)sizeof(name) - 1, options->name);
    bool offload = !(options->flags & UDPRING_PLANE_NO_TUN_OFFLOAD), many = plane_shared(plane), given = options->fd_count;
    int result = given ? tun_take(first, name, options->fds[0], options->query_fd, offload, why)
                       : tun_open(first, name, options->mtu ? options->mtu : 1420, offload, many, why);
    if (result < 0)
        return result;
    memcpy(plane->name, first->name, sizeof(plane->name));
    for (uint32_t i = 1; i < plane->worker_count; i++) {
        struct tun *queue = &plane->workers[i].tun;
        result = given ? tun_take_queue(queue, first, options->fds[i], why) : tun_open_queue(queue, first, why);
        if (result < 0)
            return result;
    }
    if (many && !first->link)
        (void)tun_steer(first);   /* without it (no right to load the program) the kernel's own choice serves */
    return 0;
}

/* Where the packets come from and go to, and the routes to the peers. */
static int attach(struct udpring_plane *plane, struct udpring_reason *why)
{
    const struct udpring_plane_options *options = &plane->options;
    int result = options->flags & UDPRING_PLANE_PACKETS ? ports_open(plane, why) : device_open(plane, why);
    if (result < 0)
        return result;
    plane->routes.no_interface = plane->ports != NULL;
    /* An interface that is elsewhere, as the query socket says, is no way to any endpoint. */
    bool elsewhere = plane->ports || (options->fd_count && options->query_fd >= 0);
    result = routes_open(&plane->routes, elsewhere ? -1 : plane->workers[0].tun.fd);
    return result < 0 ? ur_fail(why, result, "watching routes: %s", strerror(-result)) : 0;
}

static int worker_start(struct worker *worker, struct udpring_reason *why)
{
    struct udpring_plane *plane = worker->plane;
    /* Signals are the embedding program's: none may land on a worker. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int result = -pthread_create(&worker->thread, NULL, worker_main, worker);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (result < 0)
        return ur_fail(why, result, "no worker thread (pthread_create): %s", strerror(-result));
    pthread_mutex_lock(&plane->command_lock);
    while (!worker->started)
        pthread_cond_wait(&plane->command_done, &plane->command_lock);
    result = worker->start_result;
    pthread_mutex_unlock(&plane->command_lock);
    if (result < 0) {
        pthread_join(worker->thread, NULL);
        if (why)
            *why = worker->start_reason;
    }
    return result;
}

static int quit(struct worker *worker, void *argument)
{
    worker->quit = true;
    return 0;
}

/* The last first: worker 0 may need the others' locks until it ends. */
static void workers_stop(struct udpring_plane *plane, uint32_t count)
{
    while (count--) {
        worker_call(&plane->workers[count], quit, NULL);
        pthread_join(plane->workers[count].thread, NULL);
    }
}

struct udpring_plane *udpring_plane_open(const struct udpring_plane_options *options, int32_t *code, struct udpring_reason *why)
{
    struct udpring_plane *plane = plane_new(options);
    if (!plane) {
        *code = ur_fail(why, -ENOMEM, "no memory for the data plane");
        return NULL;
    }
    int result = parts_open(plane, why);
    if (result == 0)
        result = attach(plane, why);
    for (uint32_t i = 0; i < plane->worker_count && result == 0; i++) {
        result = worker_start(&plane->workers[i], why);
        if (result < 0)
            workers_stop(plane, i);
    }
    if (result == 0 && (result = routes_start(plane, why)) < 0)
        workers_stop(plane, plane->worker_count);
    *code = result;
    if (result < 0) {
        plane_free(plane);
        return NULL;
    }
    return plane;
}

void udpring_plane_close(struct udpring_plane *plane)
{
    if (!plane)
        return;
    routes_stop(&plane->routes);   /* it needs worker 0 until then */
    workers_stop(plane, plane->worker_count);
    plane_free(plane);
}

const char *udpring_plane_name(const struct udpring_plane *plane)
{
    return plane->name;
}

uint16_t udpring_plane_port(const struct udpring_plane *plane)
{
    return plane_port(plane);
}

const char *udpring_plane_tier_reason(const struct udpring_plane *plane)
{
    return plane->tier_reason;
}

const char *udpring_plane_sharing_reason(const struct udpring_plane *plane)
{
    return plane->sharing_reason.text;
}

int32_t udpring_plane_tun_fd(const struct udpring_plane *plane)
{
    return plane->workers[0].tun.fd;
}

const char *udpring_plane_routes_reason(const struct udpring_plane *plane)
{
    return plane->routes.why.text;
}

int32_t udpring_plane_eventfd(const struct udpring_plane *plane)
{
    return plane->mailbox.fd;
}

uint32_t udpring_plane_events(struct udpring_plane *plane, struct udpring_event *out, uint32_t max)
{
    uint32_t taken = mailbox_take(&plane->mailbox, out, max);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (ur_unlikely(taken && __atomic_load_n(&plane->deferred, __ATOMIC_SEQ_CST))) {
        __atomic_store_n(&plane->deferred, 0, __ATOMIC_SEQ_CST);
        for (uint32_t i = 0; i < plane->worker_count; i++)
            worker_wake(&plane->workers[i]);
    }
    return taken;
}

int32_t udpring_plane_weight(struct udpring_plane *plane, int32_t nice, int32_t group, int32_t group_usual)
{
    int own = -1;
    if (nice < -20 || nice > 0)
        return -EINVAL;
    if (group >= 0 && (own = fcntl(group, F_DUPFD_CLOEXEC, 0)) < 0)
        return -errno;
    weight_ask(&plane->weight, nice, own, group_usual);
    for (uint32_t i = 0; i < plane->worker_count; i++)
        worker_wake(&plane->workers[i]);
    return 0;
}
