#!/bin/sh
# Process 1 of a guest that runs the stressors of `stressors=A,B,…`, one after the other, for a second
# each, and switches itself off. With `stressors=?` it says which there are instead:
#   class NAME: STRESSORS
# For each stressor there is a line before it and one behind it, with stress-ng's status, what it counted of
# its own operations, and what it said where there were none:
#   stressor NAME
#   stressor NAME: STATUS OPERATIONS WORDS
/bin/busybox mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
ip link set lo up
mkdir -p /etc
echo 'root:x:0:0::/root:/bin/sh' > /etc/passwd
echo 'nobody:x:65534:65534::/:/bin/sh' >> /etc/passwd

read -r words < /proc/cmdline
for word in $words; do
    case $word in
        stressors=*) stressors=${word#*=} ;;
    esac
done

if [ "$stressors" = '?' ]; then
    known=$(stress-ng --class '?' 2>&1)
    for class in ${known#*classes:}; do
        stress-ng --class "$class?" | sed -n "s/^class '\(.*\)' stressors:/class \1:/p"
    done
    poweroff -f
fi

# run NAME COMMAND…
run() {
    name=$1
    shift
    # They end by themselves, but for a few.
    timeout -s KILL 20 "$@" --"$name" 1 --timeout 1s --temp-path /tmp --oomable \
        --pathological --metrics-brief --stdout \
        > /run/said 2>&1 < /dev/null
    status=$?
    # What is still there of it.
    kill -KILL -1
}

IFS=,
for name in $stressors; do
    echo "stressor $name"
    chmod 1777 /tmp
    run "$name" stress-ng
    grep -q -e 'without root privilege' -e 'must not run as root' /run/said \
        && run "$name" start-stop-daemon -S -q -c nobody -x /usr/bin/stress-ng --
    rm -rf /tmp/* /dev/shm/*
    pattern=$(echo "$name" | tr - .)
    done=$(sed -n "s/^stress-ng: metrc: \[[0-9]*\] $pattern  *\([0-9][0-9]*\)  *[0-9].*/\1/p" /run/said)
    words=
    [ "${done:-0}" = 0 ] && words=$(sed -n -e '/skip/b said' -e '/cannot/b said' -e '/not /b said' \
        -e '/disabled/b said' -e d -e ': said' -e 's/^stress-ng: [a-z]*: *\[[0-9]*\] //p' /run/said \
        | head -n 1)
    echo "stressor $name: $status ${done:-0} $words"
done
poweroff -f
