/* Link settings of the TUN device, by rtnetlink(7). */
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tun.h"

/* One RTM_SETLINK: the name, and IFLA_AF_SPEC { AF_INET6 { IFLA_INET6_ADDR_GEN_MODE } }. */
struct set_mode {
    struct nlmsghdr header;
    struct ifinfomsg link;
    struct nlattr name_attribute;
    char name[IFNAMSIZ];
    struct nlattr families, ipv6, mode_attribute;
    uint8_t mode[4];    /* the first byte. Attributes end at multiples of four */
};
_Static_assert(offsetof(struct set_mode, families) % 4 == 0, "attributes begin at multiples of four");

int tun_no_addresses_by_itself(const struct tun *tun)
{
    struct set_mode set = {
        .header = {.nlmsg_len = sizeof(set), .nlmsg_type = RTM_SETLINK, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
        .link = {.ifi_family = AF_UNSPEC},
        .name_attribute = {.nla_len = NLA_HDRLEN + IFNAMSIZ, .nla_type = IFLA_IFNAME},
        .families = {.nla_len = 3 * NLA_HDRLEN + 4, .nla_type = IFLA_AF_SPEC | NLA_F_NESTED},
        .ipv6 = {.nla_len = 2 * NLA_HDRLEN + 4, .nla_type = AF_INET6 | NLA_F_NESTED},
        .mode_attribute = {.nla_len = NLA_HDRLEN + 1, .nla_type = IFLA_INET6_ADDR_GEN_MODE},
        .mode = {IN6_ADDR_GEN_MODE_NONE},
    };
    struct {
        struct nlmsghdr header;
        struct nlmsgerr error;
        uint8_t more[256];
    } answer;
    memcpy(set.name, tun->name, IFNAMSIZ);
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    if (fd < 0)
        return -errno;
    int result = send(fd, &set, sizeof(set), MSG_NOSIGNAL) == (ssize_t)sizeof(set) ? 0 : -errno;
    if (result == 0) {
        /* The kernel answers within the send: there is nothing to wait for. */
        ssize_t got = recv(fd, &answer, sizeof(answer), MSG_DONTWAIT);
        result = got >= (ssize_t)(sizeof(answer.header) + sizeof(answer.error.error)) && answer.header.nlmsg_type == NLMSG_ERROR
                     ? answer.error.error : -EPROTO;
    }
    close(fd);
    return result;
}
