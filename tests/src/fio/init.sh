#!/bin/busybox sh
# Process 1 of the guest that measures its disk: fio, job after job. Kernel command-line words:
#   fio.jobs=NAME:SIZE:DEPTH,...    what to measure: fio's --rw, --bs and --iodepth
#   fio.seconds=N                   how long each
# Lines on the console: `fio-begin NAME`, then `fio-end NAME READ WRITE`, in KiB a second.
/bin/busybox mount -t proc proc /proc 2> /dev/null
/bin/busybox mount -t devtmpfs devtmpfs /dev 2> /dev/null
/bin/busybox mount -o remount,rw / 2> /dev/null
/bin/busybox --install -s /bin
for word in $(cat /proc/cmdline); do
    case $word in
        fio.jobs=*) jobs=${word#*=} ;;
        fio.seconds=*) seconds=${word#*=} ;;
    esac
done
for job in $(echo "$jobs" | tr , ' '); do
    name=${job%%:*} depth=${job##*:} size=${job#*:}
    size=${size%:*}
    echo "fio-begin $name"
    # Terse output, version 3: fields 7 and 48 are the rates of reads and writes.
    rates=$(fio --output-format=terse --terse-version=3 --name="$name" --rw="$name" --bs="$size" \
        --iodepth="$depth" --ioengine=libaio --direct=1 --filename=/data --size=100% \
        --time_based --runtime="$seconds" --randrepeat=1 | grep '^3;' | cut -d ';' -f 7,48 | tr ';' ' ')
    echo "fio-end $name ${rates:-failed}"
done
echo "fio-done"
poweroff -f
