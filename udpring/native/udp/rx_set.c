#include "rx_set.h"

#include <poll.h>
#include <stdlib.h>

#include "../uring/thread.h"

#define CAPACITY_LEAST 16u
#define GATHERED_LEAST 4u    /* datagrams of one turn from which on UDP_GRO saves more than it costs */
#define ERRORS_MOST 65536u   /* read from the error queue of a socket in one turn */

int rx_set_open(struct udp_rx_set *set, struct udp_rx *rx, struct udpring_reason *why)
{
    struct udp_rx_members none = {UDP_RX_NO_MEMBER, UDP_RX_NO_MEMBER};
    set->rx = rx;
    set->idle = UDP_RX_NO_MEMBER;
    set->ready = set->ended = none;
    rx->set = set;
    int code = udp_rx_vector_open(&set->vector, 0, rx->slots.count);
    return code ? ur_fail(why, code, "no memory for a receive ring") : 0;
}

static void append(struct udp_rx_set *set, struct udp_rx_members *list, uint32_t index)
{
    struct udp_rx_member *member = &set->member[index];
    member->next = UDP_RX_NO_MEMBER;
    member->previous = list->last;
    if (list->last == UDP_RX_NO_MEMBER)
        list->first = index;
    else
        set->member[list->last].next = index;
    list->last = index;
}

static void unlink_from(struct udp_rx_set *set, struct udp_rx_members *list, uint32_t index)
{
    struct udp_rx_member *member = &set->member[index];
    if (member->previous == UDP_RX_NO_MEMBER)
        list->first = member->next;
    else
        set->member[member->previous].next = member->next;
    if (member->next == UDP_RX_NO_MEMBER)
        list->last = member->previous;
    else
        set->member[member->next].previous = member->previous;
}

static void not_ready(struct udp_rx_set *set, uint32_t index)
{
    if (set->member[index].ready)
        unlink_from(set, &set->ready, index);
    set->member[index].ready = false;
}

static void switch_off(struct udp_rx_member *member)
{
    udp_switch_off(member->socket.fd, member->gro);
    udp_switch_off(member->socket.fd, member->timestamps);
    member->gro = member->timestamps = NULL;
}

void rx_set_close(struct udp_rx_set *set)
{
    for (uint32_t i = 0; i < set->capacity && set->rx->forks == ur_fork_count(); i++)
        switch_off(&set->member[i]);
    udp_rx_vector_close(&set->vector);
    free(set->member);
    free(set->at_fd);
    set->member = NULL;
    set->at_fd = NULL;
    set->capacity = set->fds = 0;
}

static int grow(struct udp_rx_set *set)
{
    uint32_t capacity = set->capacity ? 2 * set->capacity : CAPACITY_LEAST;
    if (capacity > UDPRING_RECV_SOCKETS_MAX)
        return -ENOSPC;
    struct udp_rx_member *member = realloc(set->member, capacity * sizeof(*member));
    if (!member)
        return -ENOMEM;
    set->member = member;
    int code = set->grow ? set->grow(set, capacity) : 0;
    if (code)
        return code;
    memset(member + set->capacity, 0, (capacity - set->capacity) * sizeof(*member));
    for (uint32_t i = capacity; i-- > set->capacity;) {   /* take the lowest index first */
        member[i].next = set->idle;
        set->idle = i;
    }
    set->capacity = capacity;
    return 0;
}

static int make_room_for_fd(struct udp_rx_set *set, uint32_t fd)
{
    if (fd < set->fds)
        return 0;
    uint32_t fds = 2 * (fd + 1);
    uint32_t *at_fd = realloc(set->at_fd, fds * sizeof(*at_fd));
    if (!at_fd)
        return -ENOMEM;
    memset(at_fd + set->fds, 0, (fds - set->fds) * sizeof(*at_fd));
    set->at_fd = at_fd;
    set->fds = fds;
    return 0;
}

/* Trains need control data, which makes a single datagram more expensive. So UDP_GRO stays off for a caller that polls the sockets,
 * until several datagrams come at a time. */
static bool trains_may_wait(const struct udp_rx *rx)
{
    return rx->passive && rx->gro_may_fail && rx->slot_bytes >= UDP_RX_SLOT_BYTES_MAX;
}

static bool has_trains(int fd)
{
    int value = 0;
    socklen_t length = sizeof(value);
    return !getsockopt(fd, SOL_UDP, UDP_GRO, &value, &length) && value;
}

static int switch_on(const struct udp_rx *rx, struct udp_rx_member *member, struct udpring_reason *why)
{
    const struct udp_handle_socket *socket = &member->socket;
    member->trains = !trains_may_wait(rx) || has_trains(socket->fd);
    int code = rx->gro_wanted && member->trains ? udp_switch_on_socket(socket, SOL_UDP, UDP_GRO, &member->gro) : 0;
    if (code && !rx->gro_may_fail)
        return ur_fail(why, code, "UDP_GRO cannot be switched on (kernel 5.0 or newer): %s", strerror(-code));
    code = rx->timestamps_wanted ? udp_switch_on_socket(socket, SOL_SOCKET, SO_TIMESTAMPNS, &member->timestamps) : 0;
    return code ? ur_fail(why, code, "SO_TIMESTAMPNS cannot be switched on: %s", strerror(-code)) : 0;
}

/* A socket with this descriptor that was closed meanwhile gives way. */
static int check_fd(struct udp_rx_set *set, uint32_t fd)
{
    uint32_t known = set->at_fd[fd];
    if (!known)
        return 0;
    if (!udp_handle_check_socket(&set->member[known - 1].socket))
        return -EEXIST;
    rx_set_end(set, known - 1, EBADF);
    return 0;
}

int64_t rx_set_add(struct udp_rx_set *set, int fd, struct udpring_reason *why)
{
    struct udp_handle_socket socket;
    int code = udp_handle_claim_socket(&socket, fd);
    if (code)
        return ur_fail(why, code, "descriptor %d is not an open socket: %s", fd, strerror(-code));
    code = make_room_for_fd(set, (uint32_t)fd);
    if (!code && (code = check_fd(set, (uint32_t)fd)))
        return ur_fail(why, code, "the ring receives from descriptor %d already", fd);
    if (!code && set->idle == UDP_RX_NO_MEMBER && (code = grow(set)) == -ENOSPC)
        return ur_fail(why, code, "a receive ring has at most %d sockets", UDPRING_RECV_SOCKETS_MAX);
    if (code)
        return ur_fail(why, code, "no memory for one more socket of a receive ring");
    uint32_t index = set->idle;
    struct udp_rx_member *member = &set->member[index];
    uint32_t next = member->next;
    /* Earlier drops are not this ring's, or are counted already if the socket comes back. */
    *member = (struct udp_rx_member){.socket = socket, .serial = member->serial + 1, .drops = udp_rx_drops_of(fd),
                                     .state = UDP_RX_MEMBER_ACTIVE};
    code = switch_on(set->rx, member, why);
    if (!code && (code = set->watch(set, index)))
        ur_fail(why, code, "descriptor %d cannot be watched: %s", fd, strerror(-code));
    if (code) {
        switch_off(member);
        member->state = UDP_RX_MEMBER_FREE;
        member->next = next;
        return code;
    }
    set->idle = next;
    set->at_fd[fd] = index + 1;
    set->count++;
    return index;
}

void rx_set_left(struct udp_rx_set *set, uint32_t index)
{
    struct udp_rx_member *member = &set->member[index];
    member->unwatched = true;
    if (member->state != UDP_RX_MEMBER_LEAVING)
        return;   /* it ended, and nobody knows yet */
    member->state = UDP_RX_MEMBER_FREE;
    member->next = set->idle;
    set->idle = index;
}

static void stop(struct udp_rx_set *set, uint32_t index)
{
    struct udp_rx_member *member = &set->member[index];
    not_ready(set, index);
    switch_off(member);
    if (set->at_fd[member->socket.fd] == index + 1)
        set->at_fd[member->socket.fd] = 0;
    member->state = UDP_RX_MEMBER_LEAVING;
}

void rx_set_end(struct udp_rx_set *set, uint32_t index, int error)
{
    struct udp_rx_member *member = &set->member[index];
    if (member->state != UDP_RX_MEMBER_ACTIVE)
        return;
    stop(set, index);
    member->error = error;
    member->unwatched = set->unwatch(set, index);
    member->state = UDP_RX_MEMBER_ENDED;
    append(set, &set->ended, index);
}

int64_t rx_set_ended(struct udp_rx_set *set, int *error)
{
    uint32_t index = set->ended.first;
    if (index == UDP_RX_NO_MEMBER)
        return -ENOENT;
    *error = set->member[index].error;
    (void)rx_set_remove(set, index);
    return index;
}

/* The member, active or ended, with this index, which may be any number. NULL: there is none. */
static struct udp_rx_member *member_of(struct udp_rx_set *set, uint32_t index)
{
    struct udp_rx_member *member = index < set->capacity ? &set->member[index] : NULL;
    return member && (member->state == UDP_RX_MEMBER_ACTIVE || member->state == UDP_RX_MEMBER_ENDED) ? member : NULL;
}

int rx_set_remove(struct udp_rx_set *set, uint32_t index)
{
    struct udp_rx_member *member = member_of(set, index);
    if (!member)
        return -ENOENT;
    if (member->state == UDP_RX_MEMBER_ENDED) {
        unlink_from(set, &set->ended, index);
        member->state = UDP_RX_MEMBER_LEAVING;
    } else {
        stop(set, index);
        member->unwatched = set->unwatch(set, index);
    }
    set->count--;
    if (member->unwatched)
        rx_set_left(set, index);
    return 0;
}

void rx_set_check(struct udp_rx_set *set, uint32_t members)
{
    for (uint32_t n = members < set->capacity ? members : set->capacity; n; n--) {
        uint32_t index = set->check_at++ % set->capacity;
        struct udp_rx_member *member = &set->member[index];
        if (member->state == UDP_RX_MEMBER_ACTIVE && udp_handle_check_socket(&member->socket))
            rx_set_end(set, index, EBADF);
    }
}

void rx_set_mark(struct udp_rx_set *set, uint32_t index, uint32_t events)
{
    struct udp_rx_member *member = &set->member[index];
    member->failed |= (events & POLLERR) != 0;
    member->shut |= (events & (POLLHUP | POLLRDHUP)) != 0;
    if (!member->ready)
        append(set, &set->ready, index);
    member->ready = true;
}

bool rx_set_hungry(struct udp_rx_set *set)
{
    return set->ready.first != UDP_RX_NO_MEMBER && !udp_rx_vector_fill(set->rx, &set->vector, UDP_RX_VECTOR);
}

bool rx_set_readable(struct udp_rx_set *set)
{
    return set->ready.first != UDP_RX_NO_MEMBER && udp_rx_vector_fill(set->rx, &set->vector, UDP_RX_VECTOR);
}

/* The socket has no more datagrams. */
static void be_quiet(struct udp_rx_set *set, uint32_t index)
{
    struct udp_rx_member *member = &set->member[index];
    not_ready(set, index);
    if (ur_unlikely(member->failed)) {
        unsigned queued, all = 0;
        do {
            queued = udp_rx_drain_errors(member->socket.fd);
            all += queued;
        } while (queued == UDP_RX_ERRORS_A_PASS && all < ERRORS_MOST);
        set->rx->stats.icmp_errors += all;
        member->failed = false;
    }
    if (ur_unlikely(member->shut))
        rx_set_end(set, index, ESHUTDOWN);
}

/* One turn of a socket. Returns how many datagrams it had. 0 and `short_of_memory` ends the pass. */
static unsigned take_turn(struct udp_rx_set *set, uint32_t index, struct udpring_packet *packets, uint32_t room)
{
    struct udp_rx_member *member = &set->member[index];
    struct udp_rx *rx = set->rx;
    int got = -EAGAIN;
    for (int errors = 0; errors < UDP_RX_ERRORS_A_PASS; errors++) {
        got = udp_rx_vector_receive(rx, &set->vector, member->socket.fd, index, &member->drops, packets, room);
        if (got >= 0 || got == -EAGAIN)
            break;
        enum udp_rx_error class = udp_rx_fail(rx, -got);
        if (class == UDP_RX_FATAL) {
            rx_set_end(set, index, -rx->fatal);
            rx->fatal = 0;
            return 0;
        }
        if (class != UDP_RX_ICMP)
            break;
        udp_rx_drain_reported(rx, member->socket.fd);
        member->failed = false;
    }
    if (ur_unlikely(got == -ENOMEM || got == -ENOBUFS)) {
        rx->short_of_memory = true;
        return 0;
    }
    if (got == -EAGAIN || (got >= 0 && (uint32_t)got < room && !member->failed)) {
        be_quiet(set, index);
    } else {   /* it may have more datagrams, or an error */
        unlink_from(set, &set->ready, index);
        append(set, &set->ready, index);
    }
    return got > 0 ? (unsigned)got : 0;
}

unsigned rx_set_receive(struct udp_rx_set *set, struct udpring_packet *packets, unsigned max)
{
    struct udp_rx *rx = set->rx;
    unsigned count = 0;
    for (unsigned turns = max + UDP_RX_VECTOR; turns && count < max && set->ready.first != UDP_RX_NO_MEMBER; turns--) {
        uint32_t room = udp_rx_vector_fill(rx, &set->vector, UDP_RX_VECTOR);
        if (ur_unlikely(!room)) {
            rx->stats.starved += !set->starved;
            set->starved = true;
            break;
        }
        set->starved = false;
        count += take_turn(set, set->ready.first, packets + count, room < max - count ? room : max - count);
        if (ur_unlikely(rx->short_of_memory))
            break;
    }
    return count;
}

unsigned rx_set_receive_from(struct udp_rx_set *set, uint32_t index, struct udpring_packet *packets, unsigned max)
{
    uint32_t room = udp_rx_vector_fill(set->rx, &set->vector, UDP_RX_VECTOR);
    room = room < max ? room : max;
    if (ur_unlikely(!room || rx_set_member_error(set, index, false)))
        return 0;
    rx_set_mark(set, index, POLLERR);   /* if it has no datagram, its error queue may be why it was readable */
    struct udp_rx_member *member = &set->member[index];
    set->vector.plain = !member->trains;
    unsigned count = take_turn(set, index, packets, room);
    not_ready(set, index);   /* the caller polls it again */
    if (ur_unlikely(count >= GATHERED_LEAST && !member->trains && member->state == UDP_RX_MEMBER_ACTIVE)) {
        member->trains = true;   /* before the switch, because a train may arrive at once */
        if (set->rx->gro_wanted && udp_switch_on_socket(&member->socket, SOL_UDP, UDP_GRO, &member->gro))
            member->gro = NULL;   /* no trains come, which is no error */
    }
    return count;
}

int rx_set_member_error(struct udp_rx_set *set, uint32_t index, bool look)
{
    const struct udp_rx_member *member = member_of(set, index);
    if (!member)
        return -ENOENT;
    if (member->state == UDP_RX_MEMBER_ACTIVE && look && udp_handle_check_socket(&member->socket))
        rx_set_end(set, index, EBADF);
    return member->state == UDP_RX_MEMBER_ENDED ? -member->error : 0;
}
