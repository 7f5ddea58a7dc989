#!/bin/sh
# Process 1 of the selftest guest. Kernel command-line word:
#   ftvm.seconds=N                      how long the load runs (default: 10)
# With a disk, it swaps to it, and what is on the disk is lost.
/bin/busybox mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp

seconds=10
read -r words < /proc/cmdline
for word in $words; do
    case $word in
        ftvm.seconds=*) seconds=${word#*=} ;;
    esac
done

cd "/modules/$(uname -r)"
while read -r module; do
    insmod "$module"
done < order
cd /
if [ -b /dev/vda ]; then
    mkswap /dev/vda > /dev/null && swapon /dev/vda
fi
echo "ftvm-guest: up"
mix "$seconds" /usr/src/compiled.c
echo "ftvm-guest: load done"
poweroff -f
