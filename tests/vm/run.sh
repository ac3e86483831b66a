#!/bin/busybox sh
# What the guest does: mounts, the tests, the end. The tests' output goes to the second serial port,
# where no word of the kernel can get between; lines that begin with `tracer-vm:` are for the host.
export PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin HOME=/root

option() {
    sed -n "s/.*tracer\.$1=\([^ ]*\).*/\1/p" /proc/cmdline
}

v1() {
    mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
    sed 1d /proc/cgroups | while read -r controller _ _ enabled; do
        [ "$enabled" = 1 ] || continue
        mkdir "/sys/fs/cgroup/$controller"
        # A controller may be there for v2 alone.
        mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller" 2>/dev/null ||
            rmdir "/sys/fs/cgroup/$controller"
    done
    mkdir /sys/fs/cgroup/systemd
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
}

mount_all() {
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t devtmpfs dev /dev
    mkdir -p /dev/pts
    mount -t devpts devpts /dev/pts
    mount -t tmpfs run /run
    mount -t tmpfs tmp /tmp
    case $(option layout) in
        v1) v1 ;;
        hybrid)
            v1
            mkdir /sys/fs/cgroup/unified
            mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
            ;;
        *)
            mount -t cgroup2 cgroup2 /sys/fs/cgroup
            for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
                echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
            done
            ;;
    esac
    hostname guest
}

[ -e /proc/self ] || mount_all
mount -t bpf bpf /sys/fs/bpf 2>/dev/null
mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null

# Whatever happens to the host's side, the machine ends.
(
    sleep "$(option seconds)"
    poweroff -f
) &

exec >/dev/ttyS1
stty raw </dev/ttyS1
echo "tracer-vm: up $(uname -r) $(cut -d' ' -f1 /proc/uptime)"

export TRACER_BIN=/usr/bin/tracer TRACER_SKIP_FILE=/tmp/skipped
# Where a test measures with many containers, emulation makes do with a few.
export TRACER_ENRICHED=3
[ "$(option layout)" = systemd ] && export TRACER_CGROUP_DRIVER=systemd
for test in /tests/*; do
    echo "tracer-vm: begin ${test##*/}"
    # shellcheck disable=SC2046 # no filter is no argument
    "$test" --test-threads=1 $(option filter) 2>/dev/ttyS0
    echo "tracer-vm: ended ${test##*/} $?"
done
[ -e /tmp/skipped ] && cat /tmp/skipped
echo "tracer-vm: end"
poweroff -f
