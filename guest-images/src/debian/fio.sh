#!/bin/sh
# Measures the disk with fio, four patterns one after the other, past the guest's cache:
# 4 KiB random reads and writes, 1 MiB sequential reads and writes. For each a line
#     fio: PATTERN BYTES-A-SECOND IOPS MEAN-LATENCY-IN-MICROSECONDS
# after a line `fio-begin PATTERN`,
# and fio's whole JSON in /var/tmp/fio-PATTERN.json. Ends with `ftvm-guest: fio done`.
#
# Words of the kernel's command line:
#   ftvm.seconds=N   seconds for each pattern (default: 10)
#   ftvm.depth=N     requests in flight (default: 8)
seconds=10
depth=8
read -r words < /proc/cmdline
for word in $words; do
    case $word in
        ftvm.seconds=*) seconds=${word#*=} ;;
        ftvm.depth=*) depth=${word#*=} ;;
    esac
done

file=/var/tmp/fio.scratch
if ! dd if=/dev/zero of=$file bs=1M count=64 oflag=direct conv=fsync status=none; then
    echo "ftvm-guest: fio failed: no room for $file"
    exit 1
fi

# The names of fio's fields begin with read_ or write_; the first of each is of the whole job.
measure() {
    name=$1
    kind=$2
    shift 2
    json=/var/tmp/fio-$name.json
    echo "fio-begin $name"
    if ! fio --name="$name" --filename=$file --filesize=64M --direct=1 --ioengine=libaio \
        --iodepth="$depth" --time_based --runtime="$seconds" --randseed=1 --output-format=json \
        --output="$json" "$@"; then
        echo "ftvm-guest: fio failed: $name"
        exit 1
    fi
    python3 -S -c '
import json, sys
with open(sys.argv[1]) as file:
    job = json.load(file)["jobs"][0][sys.argv[3]]
print("fio:", sys.argv[2], job["bw_bytes"], round(job["iops"], 1), round(job["clat_ns"]["mean"] / 1000, 1))
' "$json" "$name" "$kind"
}

measure randread read --rw=randread --bs=4k
measure randwrite write --rw=randwrite --bs=4k
measure read read --rw=read --bs=1M
measure write write --rw=write --bs=1M
rm $file
echo "ftvm-guest: fio done"
