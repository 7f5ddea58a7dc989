#!/bin/sh
# Process 1 of a host: mounts, modules, networks; then busybox init keeps the agent running.
/bin/busybox mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/net
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
/bin/busybox --install -s /bin

while read -r module; do
    parameters=
    # Shadow paging, which recording and replication need. `Host::set_paging` loads it anew.
    [ "$module" = kvm_amd.ko ] && parameters=npt=0
    insmod "/modules/$module" $parameters || echo "ftvm-host: module $module was refused"
done < /modules/order

echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
/usr/sbin/ip -batch - << BATCH
link set lo up
link set eth0 name client
link set eth1 name logging
link set eth2 name storage
link set eth3 name management
BATCH

# Up to here all hosts are the same, and a snapshot is taken: each one that is restored from it goes
# on with a name, a number, a time in nanoseconds since 1970, and a seed, that it finds on its
# console.
stty -echo
echo "ftvm-host: waits for its name"
read -r name number time seed
host-agent awaken "$time" "$seed" || exit
hostname "$name"
last=$((10 + number))
mac=$(printf '%02x' "$number")
# The guest's TAP is bridged to the client network; the host has its own address there on the bridge.
# Both are made here, because they get random addresses.
/usr/sbin/ip -batch - << BATCH
link set client address 52:54:00:77:00:$mac
link set logging address 52:54:00:77:01:$mac
link set storage address 52:54:00:77:02:$mac
link set management address 52:54:00:77:03:$mac
link add br0 type bridge forward_delay 0 mcast_snooping 0
tuntap add dev tap0 mode tap
link set client master br0 up
link set tap0 master br0 up
link set br0 up
link set logging up
link set storage up
link set management up
address add 10.77.0.$last/24 dev br0
address add 10.77.1.$last/24 dev logging
address add 10.77.2.$last/24 dev storage
address add 10.77.3.$last/24 dev management
BATCH

echo "ftvm-host: $name is up"
exec /sbin/init
