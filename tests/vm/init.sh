#!/bin/busybox sh
# The guest's first process: lays out a root that a container runtime can leave (the initramfs itself
# cannot be pivoted away from), then hands over to the guest's run or to systemd.
/bin/busybox --install -s /bin
export PATH=/bin

mkdir -p /proc /new
mount -t proc proc /proc
mount -t tmpfs -o size=75%,mode=755 root /new
mkdir -p /new/proc /new/sys /new/dev /new/run /new/tmp /new/root /new/var/tmp
for dir in bin sbin lib lib64 usr etc tests guest; do
    [ -e "/$dir" ] && cp -a "/$dir" /new/
done

next=/guest/run.sh
grep -q 'tracer.layout=systemd' /proc/cmdline && next=/lib/systemd/systemd
umount /proc
# Empties the initramfs.
exec switch_root /new "$next"
