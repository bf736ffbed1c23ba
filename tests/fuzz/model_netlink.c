#include "model_netlink.h"

#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/stat.h>

#include "model_kernel.h"
#include "model_threads.h"

#pragma GCC diagnostic ignored "-Wsign-compare"   /* in the macros */

enum { MESSAGE_MAX = 512 };

/* Owner: the call that builds it, on its stack. */
struct message {
    uint8_t bytes[MESSAGE_MAX];
    uint32_t length;
};

struct model_routes model_routes;

void netlink_reset(void)
{
    model_routes = (struct model_routes){.fault = LOOKUP_GOOD};
    memset(model_routes.to, 1, sizeof(model_routes.to));
    memset(model_routes.of_vrf, 1, sizeof(model_routes.of_vrf));
}

uint8_t netlink_route(const struct udpring_address *to, const struct udpring_address *from, uint32_t interface_index, uint32_t mark)
{
    uint32_t version = to->family == AF_INET6;
    if (interface_index)   /* the look-up names a VRF or the interface itself */
        return interface_index >= ROUTE_LINKS ? ROUTE_NONE : model_routes.of_vrf[version][interface_index];
    if (mark && model_routes.marked[version])
        return model_routes.marked[version];
    if (from->family && model_routes.from[version][from->ip[3] & 1])
        return model_routes.from[version][from->ip[3] & 1];
    return model_routes.to[version][to->ip[1] % ROUTE_SLOTS];
}

/* ---- messages ---- */

static void begin(struct message *message, uint16_t type, uint16_t flags, uint32_t sequence, const void *header, size_t bytes)
{
    struct nlmsghdr head = {.nlmsg_type = type, .nlmsg_flags = flags, .nlmsg_seq = sequence};
    memset(message, 0, sizeof(*message));
    memcpy(message->bytes, &head, sizeof(head));
    memcpy(message->bytes + NLMSG_HDRLEN, header, bytes);
    message->length = NLMSG_SPACE(bytes);
}

static void append(struct message *message, uint16_t type, const void *value, size_t bytes)
{
    struct rtattr attribute = {.rta_len = (uint16_t)RTA_LENGTH(bytes), .rta_type = type};
    memcpy(message->bytes + message->length, &attribute, sizeof(attribute));
    memcpy(message->bytes + message->length + RTA_LENGTH(0), value, bytes);
    message->length += RTA_SPACE(bytes);
}

static void finish(struct message *message)
{
    memcpy(message->bytes, &message->length, sizeof(message->length));
}

static void queue(struct kernel_file *file, const struct message *message, uint32_t length, uint32_t stranger)
{
    bool held = kernel.fault_held;
    kernel.fault_held = true;
    struct kernel_packet packet = {.bytes = exactly(message->bytes, length), .length = length, .interface_index = stranger};
    kernel.fault_held = held;
    if (!kernel_put(file, &packet))
        file->overrun = true;
}

static void error_message(struct message *message, uint32_t sequence, int error)
{
    struct nlmsgerr body = {.error = error};
    begin(message, NLMSG_ERROR, 0, sequence, &body, sizeof(body));
    finish(message);
}

static void link_message(struct message *message, uint32_t interface_index, uint16_t type, uint16_t flags, uint32_t sequence)
{
    struct ifinfomsg link = {.ifi_family = AF_UNSPEC, .ifi_index = (int)interface_index};
    uint32_t master = model_routes.vrf[interface_index];
    begin(message, type, flags, sequence, &link, sizeof(link));
    append(message, IFLA_IFNAME, "eth0", 5);
    if (master)
        append(message, IFLA_MASTER, &master, sizeof(master));
    if (master) {
        struct message info = {.length = 0};
        append(&info, IFLA_INFO_KIND, "veth", 5);
        append(&info, IFLA_INFO_SLAVE_KIND, "vrf", 4);
        append(message, IFLA_LINKINFO | NLA_F_NESTED, info.bytes, info.length);
    }
    finish(message);
}

/* ---- requests ---- */

static const struct rtattr *find(const uint8_t *request, size_t length, uint16_t type)
{
    int left = (int)(length - NLMSG_SPACE(sizeof(struct rtmsg)));
    for (const struct rtattr *at = (const void *)(request + NLMSG_SPACE(sizeof(struct rtmsg))); RTA_OK(at, left); at = RTA_NEXT(at, left))
        if (at->rta_type == type)
            return at;
    return NULL;
}

static uint32_t number(const uint8_t *request, size_t length, uint16_t type)
{
    const struct rtattr *at = find(request, length, type);
    uint32_t value = 0;
    if (at)
        memcpy(&value, RTA_DATA(at), sizeof(value));
    return value;
}

static void address(const uint8_t *request, size_t length, uint16_t type, uint8_t family, struct udpring_address *out)
{
    const struct rtattr *at = find(request, length, type);
    *out = (struct udpring_address){.family = at ? family : 0};
    if (at)
        memcpy(out->ip, RTA_DATA(at), RTA_PAYLOAD(at));
}

static void answer_route(struct kernel_file *file, const uint8_t *request, size_t length, uint32_t sequence)
{
    struct rtmsg asked, route;
    struct udpring_address to, from;
    struct message message;
    memcpy(&asked, request + NLMSG_HDRLEN, sizeof(asked));
    address(request, length, RTA_DST, asked.rtm_family, &to);
    address(request, length, RTA_SRC, asked.rtm_family, &from);
    CLAIM(to.family, "a look-up of no destination");
    uint8_t leads = netlink_route(&to, &from, number(request, length, RTA_OIF), number(request, length, RTA_MARK));
    if (leads == ROUTE_NONE || leads == ROUTE_INVALID) {
        error_message(&message, sequence, leads == ROUTE_NONE ? -ENETUNREACH : -EINVAL);
    } else {
        uint32_t interface_index = leads >= ROUTE_LOCAL ? 1 : leads;
        route = (struct rtmsg){.rtm_family = asked.rtm_family, .rtm_type = RTN_UNICAST};
        route.rtm_type = leads == ROUTE_LOCAL ? RTN_LOCAL : leads == ROUTE_BLACKHOLE ? RTN_BLACKHOLE : RTN_UNICAST;
        begin(&message, RTM_NEWROUTE, 0, sequence, &route, sizeof(route));
        append(&message, RTA_DST, to.ip, to.family == AF_INET ? 4 : 16);
        append(&message, RTA_OIF, &interface_index, sizeof(interface_index));
        finish(&message);
    }
    queue(file, &message, message.length, 0);
}

/* Applies the fault of this look-up. 0: it was answered anyway, or there is no answer. */
static int lookup(struct kernel_file *file, const uint8_t *request, size_t length, uint32_t sequence)
{
    struct message message;
    enum lookup_fault fault = model_routes.faults ? model_routes.fault : LOOKUP_GOOD;
    model_routes.lookups++;
    if (model_routes.faults) {
        model_routes.faults--;
        model_routes.struck += fault != LOOKUP_NOISE && fault != LOOKUP_GOOD;
    }
    switch (fault) {
    case LOOKUP_BUSY: return -EAGAIN;
    case LOOKUP_SEND_FAILS: return -ENOBUFS;
    case LOOKUP_LOST: return 0;
    case LOOKUP_SHORT:
        error_message(&message, sequence, -EINVAL);
        queue(file, &message, 12, 0);
        return 0;
    case LOOKUP_DENIED:
        error_message(&message, sequence, -EPERM);
        queue(file, &message, message.length, 0);
        return 0;
    case LOOKUP_NOISE:      /* an answer to an earlier look-up, and a program's message */
    case LOOKUP_STRANGERS:  /* more of them than the core skips */
        error_message(&message, sequence - 1, -EINVAL);
        for (uint32_t i = 0; i < (fault == LOOKUP_NOISE ? 2u : 9u); i++)
            queue(file, &message, message.length, i & 1 ? 77 : 0);
        break;
    default: break;
    }
    answer_route(file, request, length, sequence);
    return 0;
}

static int dump_links(struct kernel_file *file, uint32_t sequence)
{
    struct message message;
    uint8_t fault = model_routes.dump_fault;
    model_routes.dumps_struck += fault != 0;
    if (fault == 1)
        return -ENOBUFS;
    for (uint32_t i = 1; i < ROUTE_LINKS; i++) {
        link_message(&message, i, RTM_NEWLINK, NLM_F_MULTI, sequence);
        queue(file, &message, fault == 3 ? message.length - 9 : message.length, 0);
    }
    if (fault == 2 || fault == 6) {
        error_message(&message, sequence, fault == 2 ? -EBUSY : -EINTR);
    } else {
        int32_t zero = 0;
        begin(&message, NLMSG_DONE, NLM_F_MULTI, sequence, &zero, sizeof(zero));
        finish(&message);
    }
    if (fault == 4)
        file->overrun = true;
    queue(file, &message, message.length, 0);
    return 0;
}

static int ask(struct kernel_file *file, const uint8_t *request, size_t length)
{
    struct nlmsghdr header;
    memcpy(&header, request, sizeof(header));
    CLAIM(header.nlmsg_len == length, "a request of %u bytes in %zu", header.nlmsg_len, length);
    if (header.nlmsg_type == RTM_GETROUTE)
        return lookup(file, request, length, header.nlmsg_seq);
    if (header.nlmsg_type == RTM_GETLINK)
        return dump_links(file, header.nlmsg_seq);
    struct message message;
    CLAIM(header.nlmsg_type == RTM_SETLINK, "a request of type %u", header.nlmsg_type);
    if (model_routes.dump_fault == 1)
        return -ENOBUFS;
    error_message(&message, header.nlmsg_seq, model_routes.dump_fault == 2 ? -EOPNOTSUPP : 0);
    if (model_routes.dump_fault != 3)
        queue(file, &message, model_routes.dump_fault == 4 ? 8 : message.length, 0);
    return 0;
}

/* ---- notices ---- */

static void to_listeners(const struct message *message, uint32_t length)
{
    struct kernel_file *file;
    for (uint32_t i = 0; (file = kernel_nth(KERNEL_NETLINK, AF_NETLINK, i)); i++)
        if (file->joined)
            queue(file, message, length, 0);
}

void netlink_tell(uint8_t kind)
{
    static const uint16_t types[] = {RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWADDR, RTM_DELADDR, RTM_NEWRULE, RTM_DELRULE, RTM_NEWROUTE, 0};
    struct message message;
    struct rtmsg route = {.rtm_family = kind & 8 ? AF_INET6 : AF_INET};
    begin(&message, types[kind & 7], 0, 0, &route, sizeof(route));
    finish(&message);
    to_listeners(&message, kind & 16 ? 5 : message.length);
}

void netlink_tell_link(uint32_t interface_index, bool gone, bool cut)
{
    struct message message;
    link_message(&message, interface_index, gone ? RTM_DELLINK : RTM_NEWLINK, 0, 0);
    to_listeners(&message, cut ? message.length - 30 : message.length);
}

void netlink_overrun(void)
{
    struct kernel_file *file;
    for (uint32_t i = 0; (file = kernel_nth(KERNEL_NETLINK, AF_NETLINK, i)); i++)
        file->overrun |= file->joined;
}

/* ---- the calls ---- */

#define WRAP(result, name, ...)              \
    result __real_##name(__VA_ARGS__);       \
    result __wrap_##name(__VA_ARGS__);       \
    result __wrap_##name(__VA_ARGS__)

static int fail(int error)
{
    errno = error;
    return -1;
}

static bool readable(void *context)
{
    return kernel_events(context, 1);
}

static ssize_t receive(int fd, void *into, size_t room, int flags, uint32_t *port)
{
    struct kernel_file *file = kernel_file(fd);
    if (!file || file->kind != KERNEL_NETLINK)
        return fail(EBADF);
    int error = kernel_fault_wide();
    if (error)
        return fail(error);
    if (!file->nonblocking && !(flags & MSG_DONTWAIT))
        CLAIM(readable(file), "nothing will ever come to descriptor %d", fd);
    if (file->overrun) {
        file->overrun = false;
        return fail(ENOBUFS);
    }
    if (!file->count)
        return fail(EAGAIN);
    struct kernel_packet packet = file->queue[file->head];
    file->head = (file->head + 1) % KERNEL_QUEUE;
    file->count--;
    size_t copied = packet.length < room ? packet.length : room;
    memcpy(into, packet.bytes, copied);
    free(packet.bytes);
    *port = packet.interface_index;
    return (ssize_t)copied;
}

WRAP(ssize_t, recv, int fd, void *into, size_t room, int flags)
{
    uint32_t port;
    return kernel.active ? receive(fd, into, room, flags, &port) : __real_recv(fd, into, room, flags);
}

WRAP(ssize_t, recvfrom, int fd, void *into, size_t room, int flags, struct sockaddr *from, socklen_t *length)
{
    if (!kernel.active)
        return __real_recvfrom(fd, into, room, flags, from, length);
    struct sockaddr_nl name = {.nl_family = AF_NETLINK};
    ssize_t got = receive(fd, into, room, flags, &name.nl_pid);
    memcpy(from, &name, *length < sizeof(name) ? *length : sizeof(name));
    *length = sizeof(name);
    return got;
}

static ssize_t send_to_kernel(int fd, const void *bytes, size_t length)
{
    struct kernel_file *file = kernel_file(fd);
    if (!file || file->kind != KERNEL_NETLINK)
        return fail(EBADF);
    int error = kernel_fault_wide();
    if (error)
        return fail(error);
    int result = ask(file, bytes, length);
    return result < 0 ? fail(-result) : (ssize_t)length;
}

WRAP(ssize_t, send, int fd, const void *bytes, size_t length, int flags)
{
    return kernel.active ? send_to_kernel(fd, bytes, length) : __real_send(fd, bytes, length, flags);
}

WRAP(ssize_t, sendto, int fd, const void *bytes, size_t length, int flags, const struct sockaddr *to, socklen_t to_length)
{
    const struct kernel_file *file = kernel_file(fd);
    if (!kernel.active)
        return __real_sendto(fd, bytes, length, flags, to, to_length);
    if (!file || file->kind != KERNEL_UDP)
        return send_to_kernel(fd, bytes, length);
    struct iovec piece = {(void *)(uintptr_t)bytes, length};
    struct msghdr header = {.msg_name = (void *)(uintptr_t)to, .msg_namelen = to_length, .msg_iov = &piece, .msg_iovlen = 1};
    int32_t sent = kernel_send(fd, &header, false);
    return sent < 0 ? fail(-sent) : sent;
}

/* Other processes use the CPU for the time that the harness says. The real call would give away the fuzzer's CPU. */
WRAP(int, sched_yield, void)
{
    if (!kernel.active)
        return __real_sched_yield();
    threads_now_ns += kernel.yield_ns;
    return 0;
}

WRAP(int, stat, const char *path, struct stat *status)
{
    if (!kernel.active)
        return __real_stat(path, status);
    memset(status, 0, sizeof(*status));
    status->st_ino = KERNEL_SPACE;
    return 0;
}
