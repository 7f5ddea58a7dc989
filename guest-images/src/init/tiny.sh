#!/bin/sh
# Process 1 of the tiny guest. Kernel command-line words:
#   ftvm.do=poweroff|reboot|shell|net|count|clock|disk
#                                       what to do after the work (default: poweroff)
#   ftvm.work=N                         rounds of work (default: 1)
#   ftvm.ip=ADDRESS/BITS ftvm.gw=...    for ftvm.do=net and count, and for ftvm.do=disk if it is to answer too
#   ftvm.laps=N                         for ftvm.do=disk: then poweroff (default: for ever)
/bin/busybox mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp

what=poweroff
rounds=1
read -r words < /proc/cmdline
for word in $words; do
    case $word in
        ftvm.do=*) what=${word#*=} ;;
        ftvm.work=*) rounds=${word#*=} ;;
        ftvm.ip=*) address=${word#*=} ;;
        ftvm.gw=*) gateway=${word#*=} ;;
        ftvm.laps=*) laps=${word#*=} ;;
    esac
done

load_modules() {
    cd "/modules/$(uname -r)"
    while read -r module; do
        insmod "$module"
    done < order
    cd /
}

# Answers on port 7, for ever: every connection gets what this program makes of its bytes.
answer() {
    echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6
    ip link set lo up
    ip address add "$address" dev eth0
    ip link set eth0 up
    [ -n "$gateway" ] && ip route add default via "$gateway"
    echo "ftvm-guest: net ready, $1 on port 7"
    while true; do
        nc -ll -p 7 -e "$2"
    done
}

echo "ftvm-guest: up"

# Forks, pipes, files and a timer; the digest is the same on every machine.
round=0
while [ "$round" -lt "$rounds" ]; do
    for job in 1 2 3 4; do
        (
            line=0
            while [ "$line" -lt 50 ]; do
                echo "round $round job $job line $line"
                line=$((line + 1))
            done | sort -r > "/tmp/job$job"
        ) &
    done
    wait
    sleep 0.05
    cat /tmp/job1 /tmp/job2 /tmp/job3 /tmp/job4 >> /tmp/all
    round=$((round + 1))
done
echo "ftvm-guest: work done $(sha256sum < /tmp/all | cut -c 1-16)"

case $what in
    reboot)
        reboot -f
        ;;
    shell)
        exec setsid cttyhack /bin/sh -l
        ;;
    clock)
        # For ever: 20 reads and a line, every 50 ms.
        exec clock monotonic 20 0 50
        ;;
    disk)
        load_modules
        [ -n "$address" ] && answer echo /bin/cat &
        # Two workers; 50 ms of rest after each lap.
        if disk /dev/vda 2 "${laps:-0}" 50; then
            echo "ftvm-guest: disk done"
        else
            echo "ftvm-guest: disk failed"
        fi
        poweroff -f
        ;;
    net)
        load_modules
        answer echo /bin/cat
        ;;
    count)
        load_modules
        answer count /bin/count
        ;;
    *)
        poweroff -f
        ;;
esac
echo "ftvm-guest: cannot $what"
while true; do
    sleep 3600
done
