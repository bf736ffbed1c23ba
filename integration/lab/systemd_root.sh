#!/usr/bin/env bash
# Runs a program as a service of a real systemd: systemd_root.sh CHECKOUT UNIT FOLDER
# FOLDER/probe is the program, and FOLDER/probe.log its output. The host's file systems are the lower layer of an overlay, whose upper layer
# lies in memory: systemd writes nothing to the host. It gets a cgroup of its own, which `systemd_root.sh --clean FOLDER` removes. The caller
# made the namespaces: mount, PID, UTS, IPC, network.
set -euo pipefail
mount --make-rprivate /
if [[ $1 != --inside ]]; then
    # FOLDER is the test's, so its inode is unique.
    [[ $1 == --clean ]] && folder=$2 || folder=$3
    groups=$folder/groups
    mkdir -p "$groups"
    mount -t cgroup2 cgroup "$groups"
    own=$groups/udpring-$(stat -c %i "$folder")
    if [[ $1 == --clean ]]; then
        [[ ! -d $own ]] || find "$own" -depth -type d -exec rmdir {} +
        exit
    fi
    mkdir "$own"
    echo $$ >"$own/cgroup.procs"
    umount "$groups"
    exec unshare --cgroup bash "$0" --inside "$@"
fi
checkout=$2 unit=$3 folder=$4
base=$folder/system
mkdir -p "$base"
mount -t tmpfs -o size=512m tmpfs "$base"
mkdir "$base"/{upper,work,host}
mount -t overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" overlay "$base/host"
cd "$base/host"
for place in run tmp var/tmp dev; do mount -t tmpfs tmpfs "$place"; done
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup sys/fs/cgroup
mkdir -p dev/{net,pts,shm,mqueue,hugepages} out ".$checkout"
for node in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 net/tun:10:200; do
    IFS=: read -r name major minor <<<"$node"
    mknod -m 666 "dev/$name" c "$major" "$minor"
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mountpoint -q "$checkout" || mount --bind "$checkout" ".$checkout"
mount -o remount,bind,ro ".$checkout" 2>/dev/null || true
mount --bind "$folder" out
# Only the probe and the unit. These would look at the host's hardware.
rm -f etc/systemd/system/*.wants/*
for each in systemd-{tmpfiles-setup,tmpfiles-setup-dev,udevd,udev-trigger,journal-flush,sysusers,update-utmp,random-seed}.service \
    systemd-tmpfiles-clean.timer dev-hugepages.mount dev-mqueue.mount sys-kernel-{debug,tracing}.mount; do
    ln -sf /dev/null "etc/systemd/system/$each"
done
cp "$unit" etc/systemd/system/udpring@.service
mkdir -p etc/systemd/system/udpring@.service.d
cat >etc/systemd/system/udpring@.service.d/log.conf <<'UNIT'
[Service]
StandardOutput=append:/out/node.log
StandardError=append:/out/node.log
UNIT
cat >etc/systemd/system/probe.service <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/bash /out/probe
StandardOutput=append:/out/probe.log
StandardError=append:/out/probe.log
UNIT
exec env -i container=udpring PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot . /lib/systemd/systemd --system --unit=probe.service \
    --log-target=console --log-level=notice --show-status=no
