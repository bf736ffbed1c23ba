/* Why no TUN device was to be had, and the cure. Opening the device node and making an interface fail for different reasons:
 * the first is a matter of file permissions and containers, the second of CAP_NET_ADMIN in the network namespace. */
#include "../../base.h"

#include <sys/statvfs.h>

#include "tun.h"

static bool mounted_nodev(void)
{
    struct statvfs filesystem;
    return statvfs(TUN_NODE, &filesystem) == 0 && filesystem.f_flag & ST_NODEV;
}

int tun_refused_node(int code, struct udpring_reason *why)
{
    switch (code) {
    case ENOENT:
        return ur_fail(why, -code, TUN_NODE " is missing (load the module: modprobe tun, or pass the device to the container: --device " TUN_NODE ")");
    case ENODEV:
    case ENXIO:
        return ur_fail(why, -code, TUN_NODE " has no driver (load the module: modprobe tun)");
    case EACCES:
        if (mounted_nodev())
            return ur_fail(why, -code, TUN_NODE ": permission denied: its filesystem is mounted nodev (bind the host's " TUN_NODE " over it)");
        return ur_fail(why, -code, TUN_NODE ": permission denied by its mode (run as root, or open it to all: chmod 0666 " TUN_NODE "; making an interface still takes CAP_NET_ADMIN)");
    case EPERM:
        return ur_fail(why, -code, TUN_NODE ": not permitted by the container's device rules or a sandbox (pass the device to the container: --device " TUN_NODE ")");
    case EMFILE:
        return ur_fail(why, -code, TUN_NODE ": this process may open no more files (raise the limit: ulimit -n)");
    case ENFILE:
        return ur_fail(why, -code, TUN_NODE ": this host may open no more files (raise fs.file-max: sysctl -w fs.file-max=N)");
    default:
        return ur_fail(why, -code, TUN_NODE ": %s (see: udpring doctor)", strerror(code));
    }
}

int tun_refused_interface(int code, const char *name, struct udpring_reason *why)
{
    switch (code) {
    case EPERM:
    case EACCES:
        return ur_fail(why, -code, "interface %s: no right to make a TUN device in this network namespace (run as root with CAP_NET_ADMIN, or in namespaces of your own: unshare -Urn)", name);
    case EBUSY:
        return ur_fail(why, -code, "interface %s: the name is taken (choose another, or take it down: udpring down %s; if another program made it: ip link delete dev %s)", name, name, name);
    case EINVAL:
        return ur_fail(why, -code, "interface %s: not a valid name, or taken by an interface that is not a TUN device (choose another, or delete it: ip link delete dev %s)", name, name);
    case ENODEV:
    case ENXIO:
        return ur_fail(why, -code, "interface %s: the kernel makes no TUN device (load the module: modprobe tun)", name);
    case ENOMEM:
    case ENOBUFS:
        return ur_fail(why, -code, "interface %s: no memory for a TUN device (free memory, or raise the limit of the cgroup)", name);
    default:
        return ur_fail(why, -code, "interface %s: no TUN device can be made: %s (see: udpring doctor)", name, strerror(code));
    }
}
