#!/bin/sh
# Process 1 of a Debian host until its root is mounted; then the root's own init goes on.
# Kernel command-line words:
#   testbed.name=NAME testbed.address=ADDRESS/BITS    the host's name, and its address in the management network
/bin/busybox mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin

read -r words < /proc/cmdline
for word in $words; do
    case $word in
        testbed.name=*) name=${word#*=} ;;
        testbed.address=*) address=${word#*=} ;;
    esac
done
while read -r module; do
    insmod "/modules/$module"
done < /modules/order
if ! mount -t ext4 /dev/vda /root; then
    echo "ftvm-host: cannot mount the root"
    poweroff -f
fi

# The kernel is the testbed's, and so are its modules.
release=$(uname -r)
[ -d "/root/usr/lib/modules/$release" ] || cp -r "/lib/modules/$release" /root/usr/lib/modules/
if [ ! -s /root/etc/hostname ]; then
    echo "$name" > /root/etc/hostname
    printf '127.0.1.1\t%s\n' "$name" >> /root/etc/hosts
fi

# Our agent leaves nothing on the disk. systemd takes a /run that is mounted already.
mount -t tmpfs -o mode=755,nosuid,nodev run /root/run
units=/root/run/systemd/system
mkdir -p "$units/multi-user.target.wants"
cp -r /testbed /root/run/testbed
sed -e "s|@NAME@|$name|" -e "s|@ADDRESS@|$address|" /testbed/agent.service > "$units/testbed-agent.service"
ln -s ../testbed-agent.service "$units/multi-user.target.wants/"

# The shell finds busybox's programs with /proc: it goes last.
for tree in sys dev proc; do
    /bin/busybox mount --move /$tree /root/$tree
done
exec /bin/busybox switch_root /root /sbin/init
