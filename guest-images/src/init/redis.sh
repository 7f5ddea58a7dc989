#!/bin/sh
# Process 1 of the Redis guest: mounts, modules, network; then busybox init
# keeps redis-server and the console's shell running (etc/inittab).
/bin/busybox mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp

read -r words < /proc/cmdline
for word in $words; do
    case $word in
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
echo 1 > /proc/sys/vm/overcommit_memory
ip link set lo up
if [ -n "$address" ] && [ -e /sys/class/net/eth0 ]; then
    ip address add "$address" dev eth0
    ip link set eth0 up
    [ -n "$gateway" ] && ip route add default via "$gateway"
else
    echo "ftvm-guest: no network (ftvm.ip=${address:-missing})"
fi

exec /sbin/init
