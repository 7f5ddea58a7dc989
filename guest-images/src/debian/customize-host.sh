#!/bin/sh
# Makes the root of a testbed's host out of installed Debian packages: $1 is the root. Run by mmdebstrap, as root.
set -e
root=$1

# As the installer leaves it, but for the root's mount, which whoever boots it makes.
printf '127.0.0.1\tlocalhost\n' > "$root/etc/hosts"
printf 'source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n' > "$root/etc/network/interfaces"
: > "$root/etc/fstab"
mkdir -p "$root/lib/modules"

# What nobody looks at in a machine that lives for minutes; each costs time at boot.
for unit in \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-tmpfiles-clean.timer \
    getty@tty1.service getty-static.service serial-getty@.service systemd-logind.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

# What would differ (mmdebstrap leaves this machine's name), and what nobody reads.
rm -rf "$root"/etc/hostname "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/cache/debconf/* \
    "$root"/var/lib/dpkg/*-old "$root"/var/cache/ldconfig/aux-cache \
    "$root"/var/lib/systemd/random-seed "$root"/etc/*- "$root"/etc/resolv.conf
# How this machine gets its packages is no part of the image.
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* \
    "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
find "$root/var/log" -type f -delete
: > "$root/etc/machine-id"
