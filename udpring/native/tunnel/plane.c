/* Opening and closing a plane. */
#include "plane.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

/* Room before and behind the packet that is read: for its vnet header, and for padding. */
#define TUN_MEMORY (4096 + OUT_SLOT_BYTES)

static int out_slots_open(struct udpring_plane *plane)
{
    size_t bytes = (size_t)OUT_SLOTS * OUT_SLOT_BYTES + TUN_MEMORY;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    /* A forked child must not share pages that the kernel reads from; nor does it need them. */
    madvise(memory, bytes, MADV_DONTFORK);
    plane->tun_memory = memory;
    plane->tun_packet = plane->tun_memory + 4096;
    plane->out_memory = plane->tun_memory + TUN_MEMORY;
    for (uint32_t slot = 0; slot < OUT_SLOTS; slot++) {
        plane->out[slot].memory = plane->out_memory + (size_t)slot * OUT_SLOT_BYTES;
        plane->out_free[plane->out_free_count++] = slot;
    }
    return 0;
}

/* Everything but the worker's rings, which the worker opens and closes itself. */
static void plane_free(struct udpring_plane *plane)
{
    plane_peers_free(plane);
    if (plane->trie)
        udpring_trie_free(plane->trie);
    index_table_close(&plane->indices);
    mac_engine_close(&plane->mac);
    cookie_sealer_close(&plane->cookie_sealer);
    mailbox_close(&plane->mailbox);
    if (plane->wake_fd >= 0)
        close(plane->wake_fd);
    tun_close(&plane->tun);
    if (plane->tun_memory)
        munmap(plane->tun_memory, (size_t)OUT_SLOTS * OUT_SLOT_BYTES + TUN_MEMORY);
    pthread_cond_destroy(&plane->command_done);
    pthread_mutex_destroy(&plane->command_lock);
    explicit_bzero(plane, sizeof(*plane));
    free(plane);
}

static int parts_open(struct udpring_plane *plane, struct udpring_reason *why)
{
    if (!aead_chosen())
        return ur_fail(why, -ENOTSUP, "%s", aead_why());
    plane->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (plane->wake_fd < 0)
        return ur_fail(why, -errno, "eventfd: %s", strerror(errno));
    int result = mailbox_open(&plane->mailbox, plane->options.mailbox ? plane->options.mailbox : MAILBOX_DEFAULT);
    if (result == 0)
        result = out_slots_open(plane);
    if (result == 0)
        result = index_table_open(&plane->indices);
    if (result == 0 && !(plane->trie = udpring_trie_new()))
        result = -ENOMEM;
    if (result < 0)
        return ur_fail(why, result, "opening the data plane: %s", strerror(-result));
    result = mac_engine_open(&plane->mac, why);
    if (result == 0)
        result = cookie_sealer_open(&plane->cookie_sealer, why);
    if (result < 0)
        return result;
    char name[sizeof(plane->options.name)];
    snprintf(name, sizeof(name), "%.*s", (int)sizeof(name) - 1, plane->options.name);
    result = tun_open(&plane->tun, name, plane->options.tun_fd >= 0 ? 0 : plane->options.mtu ? plane->options.mtu : 1420,
                      plane->options.tun_fd, !(plane->options.flags & UDPRING_PLANE_NO_TUN_OFFLOAD), why);
    memcpy(plane->name, plane->tun.name, sizeof(plane->name));
    return result;
}

static int worker_start(struct udpring_plane *plane, struct udpring_reason *why)
{
    /* Signals are the embedding program's: none may land on the worker. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int result = -pthread_create(&plane->thread, NULL, worker_main, plane);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (result < 0)
        return ur_fail(why, result, "starting the worker thread: %s", strerror(-result));
    pthread_mutex_lock(&plane->command_lock);
    while (!plane->started)
        pthread_cond_wait(&plane->command_done, &plane->command_lock);
    result = plane->start_result;
    pthread_mutex_unlock(&plane->command_lock);
    if (result < 0) {
        pthread_join(plane->thread, NULL);
        if (why)
            *why = plane->start_reason;
    }
    return result;
}

struct udpring_plane *udpring_plane_open(const struct udpring_plane_options *options, int32_t *code, struct udpring_reason *why)
{
    struct udpring_plane *plane = calloc(1, sizeof(*plane));
    if (!plane) {
        *code = ur_fail(why, -ENOMEM, "opening the data plane: out of memory");
        return NULL;
    }
    plane->options = *options;
    plane->train = -1;
    plane->coalescer.tun = &plane->tun;
    plane->wake_fd = plane->mailbox.fd = plane->tun.fd = plane->tun.query_fd = plane->fd[0] = plane->fd[1] = -1;
    pthread_mutex_init(&plane->command_lock, NULL);
    pthread_cond_init(&plane->command_done, NULL);
    int result = parts_open(plane, why);
    if (result == 0)
        result = worker_start(plane, why);
    *code = result;
    if (result < 0) {
        plane_free(plane);
        return NULL;
    }
    return plane;
}

static int quit(struct udpring_plane *plane, void *argument)
{
    plane->quit = true;
    return 0;
}

void udpring_plane_close(struct udpring_plane *plane)
{
    if (!plane)
        return;
    plane_call(plane, quit, NULL);
    pthread_join(plane->thread, NULL);
    plane_free(plane);
}

const char *udpring_plane_name(const struct udpring_plane *plane)
{
    return plane->name;
}

uint16_t udpring_plane_port(const struct udpring_plane *plane)
{
    return (uint16_t)__atomic_load_n(&plane->port, __ATOMIC_ACQUIRE);
}

const char *udpring_plane_tier_reason(const struct udpring_plane *plane)
{
    return plane->tier_reason;
}

int32_t udpring_plane_eventfd(const struct udpring_plane *plane)
{
    return plane->mailbox.fd;
}

uint32_t udpring_plane_events(struct udpring_plane *plane, struct udpring_event *out, uint32_t max)
{
    return mailbox_take(&plane->mailbox, out, max);
}
