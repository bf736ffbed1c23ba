#include "switches.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "handle.h"

struct udp_switch {
    struct udp_switch *next;
    struct udp_handle_socket socket;
    int level, option;
    uint32_t users;
};

#define BUCKETS 256u   /* a power of two */

/* By inode. Searched only when a ring opens or closes, but there may be many sockets. */
static struct udp_switch *switches[BUCKETS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;
static int fork_error;

static void take_lock(void)
{
    pthread_mutex_lock(&lock);
}

static void leave_lock(void)
{
    pthread_mutex_unlock(&lock);
}

static void watch_forks(void)
{
    fork_error = -pthread_atfork(take_lock, leave_lock, leave_lock);   /* the child must not inherit a locked mutex */
}

static struct udp_switch **find(const struct udp_handle_socket *socket, int level, int option)
{
    struct udp_switch **at = &switches[socket->inode & (BUCKETS - 1)];
    while (*at && ((*at)->socket.inode != socket->inode || (*at)->socket.device != socket->device || (*at)->level != level ||
                   (*at)->option != option))
        at = &(*at)->next;
    return at;
}

static int switch_on(const struct udp_handle_socket *socket, int level, int option, struct udp_switch **held)
{
    int value = 0;
    socklen_t length = sizeof(value);
    if (!getsockopt(socket->fd, level, option, &value, &length) && value)
        return 0;
    struct udp_switch *fresh = malloc(sizeof(*fresh));
    if (!fresh)
        return -ENOMEM;
    value = 1;
    if (setsockopt(socket->fd, level, option, &value, sizeof(value))) {
        int error = errno;
        free(fresh);
        return -error;
    }
    struct udp_switch **bucket = &switches[socket->inode & (BUCKETS - 1)];
    *fresh = (struct udp_switch){.next = *bucket, .socket = *socket, .level = level, .option = option, .users = 1};
    *held = *bucket = fresh;
    return 0;
}

int udp_switch_on(int fd, int level, int option, struct udp_switch **held)
{
    struct udp_handle_socket socket;
    *held = NULL;
    int code = udp_handle_claim_socket(&socket, fd);
    return code ? code : udp_switch_on_socket(&socket, level, option, held);
}

int udp_switch_on_socket(const struct udp_handle_socket *socket, int level, int option, struct udp_switch **held)
{
    int code = 0;
    *held = NULL;
    pthread_once(&fork_once, watch_forks);
    if (fork_error)
        return fork_error;
    take_lock();
    struct udp_switch *known = *find(socket, level, option);
    if (known) {
        known->users++;
        *held = known;
    } else {
        code = switch_on(socket, level, option, held);
    }
    leave_lock();
    return code;
}

void udp_switch_off(int fd, struct udp_switch *held)
{
    if (!held)
        return;
    take_lock();
    if (--held->users) {
        leave_lock();
        return;
    }
    held->socket.fd = fd;   /* the first holder may have used another descriptor of the same socket */
    if (!udp_handle_check_socket(&held->socket)) {
        int off = 0;
        (void)setsockopt(fd, held->level, held->option, &off, sizeof(off));
    }
    *find(&held->socket, held->level, held->option) = held->next;
    leave_lock();
    free(held);
}
