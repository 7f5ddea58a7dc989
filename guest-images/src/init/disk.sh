#!/bin/sh
# Process 1 until the root is mounted: modules, network, root; then the root's own init goes on.
# Kernel command-line words:
#   ftvm.root=DEVICE                    what has the root (default: /dev/vda), ext4
#   ftvm.ip=ADDRESS/BITS ftvm.gw=...    the network card's address
/bin/busybox mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev

device=/dev/vda
read -r words < /proc/cmdline
for word in $words; do
    case $word in
        ftvm.root=*) device=${word#*=} ;;
        ftvm.ip=*) address=${word#*=} ;;
        ftvm.gw=*) gateway=${word#*=} ;;
    esac
done

cd "/modules/$(uname -r)"
while read -r module; do
    insmod "$module"
done < order
cd /

echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
ip link set lo up
if [ -n "$address" ] && [ -e /sys/class/net/eth0 ]; then
    ip address add "$address" dev eth0
    ip link set eth0 up
    [ -n "$gateway" ] && ip route add default via "$gateway"
else
    echo "ftvm-guest: no network (ftvm.ip=${address:-missing})"
fi

# The journal of ext4 mends what a crash left; there is no other check.
if ! mount -t ext4 "$device" /root; then
    echo "ftvm-guest: cannot mount $device: is there a disk (--disk), with an ext4 file system?"
    poweroff -f
fi

# ftvm rewrites the modules of an initramfs, but cannot see those on a disk: the root gets ours,
# in memory, in place of its own.
release=$(uname -r)
for modules in /root/usr/lib/modules /root/lib/modules; do
    [ -d "$modules" ] && break
done
if mount -t tmpfs -o mode=755 modules "$modules"; then
    cp -r "/lib/modules/$release" "$modules/"
else
    echo "ftvm-guest: the root has no /lib/modules: no modules can be loaded later"
fi

echo "ftvm-guest: root mounted"
# The shell finds busybox's programs with /proc: it goes last.
for tree in sys dev proc; do
    /bin/busybox mount --move /$tree /root/$tree
done
exec /bin/busybox switch_root /root /sbin/init
