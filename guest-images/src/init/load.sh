#!/bin/sh
# Computes beside Redis what `ftvm.load=` on the kernel's command line asks for, chunk after
# chunk, for ever:
#   openssl   `openssl speed`, and a key derivation (PBKDF2)
#   busy      the shell's own arithmetic
#   stress    stress-ng: workers that fill memory and verify it, beside a file that must not change
#   mixed     a chunk of each of these in turn
#   tsc       time stamp counter reads
# Every chunk gives a line on the console, `load KIND NUMBER DIGEST`, and sets field NUMBER of
# the Redis hash `load:KIND` to DIGEST. The digest depends on kind and number alone;
# `guest_images::load` computes it as well, and the constants here are the ones there.
#
#   load              what the command line asks for
#   load KIND NUMBER  one chunk: prints its digest

# Every function prints the digest of chunk $1.

openssl_chunk() {
    openssl speed -seconds 1 -bytes 16384 sha256 > /dev/null 2>&1 \
        || printf 'speed-ended-with-status-%s-' $?
    openssl kdf -keylen 8 -kdfopt digest:SHA256 -kdfopt pass:ftvm -kdfopt "salt:load-$1" \
        -kdfopt iter:60000 PBKDF2 | tr -d ':\n' | tr A-F a-f
}

busy_chunk() {
    i=0
    x=$1
    while [ $i -lt 20000 ]; do
        x=$(((x * 1103515245 + 12345 + i) & 2147483647))
        i=$((i + 1))
    done
    printf '%08x' $x
}

stress_chunk() {
    yes "load stress $1" | head -c 1048576 > /tmp/load
    # Not seeded from the clock, and ended by counts: the same work in every chunk.
    stress-ng --quiet --no-rand-seed --temp-path /tmp --verify \
        --vm 1 --vm-bytes 16M --vm-method inc-nybble --vm-ops 2048 \
        --memcpy 1 --memcpy-ops 2 --qsort 1 --qsort-size 4096 --qsort-ops 1 >&2 \
        || printf 'stress-ng-ended-with-status-%s-' $?
    sha256sum < /tmp/load | cut -c 1-16
}

# tell KIND NUMBER DIGEST: a lost answer of Redis does no harm, the same is set again.
tell() {
    echo "load $1 $2 $3" > /dev/console
    until printf 'HSET load:%s %s "%s"\r\nQUIT\r\n' "$1" "$2" "$3" \
        | nc -w 5 127.0.0.1 6379 2> /dev/null | grep -q '^:'; do
        sleep 0.2
    done
}

chunk() {
    tell "$1" "$2" "$("$1_chunk" "$2")"
}

if [ $# -eq 2 ]; then
    "$1_chunk" "$2"
    exit
fi

read -r words < /proc/cmdline
for word in $words; do
    case $word in
        ftvm.load=*) load=${word#*=} ;;
    esac
done
case $load in
    '') exit ;;
    openssl | busy | stress | mixed | tsc) ;;
    *)
        echo "ftvm-guest: ftvm.load=$load is none of openssl, busy, stress, mixed, tsc" > /dev/console
        exit 1
        ;;
esac

until printf 'PING\r\nQUIT\r\n' | nc -w 5 127.0.0.1 6379 2> /dev/null | grep -q PONG; do
    sleep 0.2
done
number=0
if [ "$load" = tsc ]; then
    tsc 2000 | while read -r line; do
        number=$((number + 1))
        tell tsc $number "$line"
    done
    exit
fi
while true; do
    number=$((number + 1))
    case $load in
        mixed)
            chunk openssl $number
            chunk stress $number
            chunk busy $number
            ;;
        *) chunk "$load" $number ;;
    esac
done
