#!/bin/sh
# Makes the root of the disk image out of installed Debian packages: $1 is the root. The files
# beside this script go into it, and PostgreSQL's cluster is made. Run by mmdebstrap, as root.
set -e
root=$1
here=$(dirname "$0")

install -m 755 "$here/ready.sh" "$root/usr/local/bin/ftvm-ready"
install -m 755 "$here/agent.sh" "$root/usr/local/bin/ftvm-agent"
install -m 644 "$here/console.service" "$root/etc/systemd/system/serial-getty@.service"
install -m 644 "$here/ready.service" "$root/etc/systemd/system/ftvm-ready.service"
install -m 644 "$here/agent.socket" "$root/etc/systemd/system/ftvm-agent.socket"
install -m 644 "$here/agent.service" "$root/etc/systemd/system/ftvm-agent@.service"
wants=$root/etc/systemd/system/multi-user.target.wants
mkdir -p "$wants"
ln -sf ../ftvm-ready.service ../ftvm-agent.socket "$wants/"

echo ftvm > "$root/etc/hostname"
printf '127.0.0.1\tlocalhost\n127.0.1.1\tftvm\n' > "$root/etc/hosts"
# The initramfs mounted the root already, with write access.
: > "$root/etc/fstab"
# No password will do: the console logs root in by itself.
mkdir -p "$root/lib/modules"

# The journal stays in memory, and the console is for what scenarios wait for.
mkdir -p "$root/etc/systemd/journald.conf.d" "$root/etc/systemd/system.conf.d"
printf '[Journal]\nStorage=volatile\n' > "$root/etc/systemd/journald.conf.d/ftvm.conf"
printf '[Manager]\nShowStatus=no\nLogTarget=journal\n' > "$root/etc/systemd/system.conf.d/ftvm.conf"

# What a machine without users, updates and hot-plugging can do without; each costs time at boot.
for unit in \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer e2scrub_reap.service fstrim.timer systemd-tmpfiles-clean.timer \
    getty@tty1.service getty-static.service systemd-pstore.service systemd-update-utmp.service \
    systemd-update-utmp-runlevel.service systemd-sysusers.service systemd-modules-load.service \
    systemd-ask-password-console.path systemd-ask-password-wall.path \
    modprobe@.service dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
    sys-kernel-config.mount sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

# PostgreSQL: a cluster with stock settings, but reachable, and without the certificate that
# Debian makes at random.
version=$(basename "$root"/usr/lib/postgresql/*)
install -m 644 "$here/still.so" "$root/tmp/still.so"
cat > "$root/tmp/cluster.sh" << END
set -e
export LD_PRELOAD=/tmp/still.so LC_ALL=C.UTF-8
data=/var/lib/postgresql/$version/main
programs=/usr/lib/postgresql/$version/bin
as_postgres() {
    setpriv --reuid postgres --regid postgres --init-groups "\$@"
}
chown -R postgres:postgres /var/lib/postgresql
pg_createcluster $version main --port 5432 --locale C.UTF-8 \
    --pgoption listen_addresses='*' --pgoption ssl=off \
    --pgoption dynamic_shared_memory_type=posix -- --auth=trust
echo 'CREATE DATABASE ftvm' | as_postgres "\$programs/postgres" --single -D "\$data" \
    -c "config_file=/etc/postgresql/$version/main/postgresql.conf" template1
# The log that is there has bytes of the server's memory between its records.
as_postgres "\$programs/pg_resetwal" --force "\$data"
END
# Process numbers and addresses end up in files, too.
unshare --pid --fork --mount-proc="$root/proc" \
    setarch -R chroot "$root" sh /tmp/cluster.sh > /dev/null
rm "$root/tmp/cluster.sh" "$root/tmp/still.so"
# Debian's unit starts the server with a program in Perl, which takes as much time as the server itself.
mkdir -p "$root/etc/systemd/system/postgresql@.service.d"
cat > "$root/etc/systemd/system/postgresql@.service.d/ftvm.conf" << END
[Service]
Type=notify
User=postgres
PIDFile=
ExecStart=
ExecStart=/usr/lib/postgresql/$version/bin/postgres -D /var/lib/postgresql/%I \
    -c config_file=/etc/postgresql/%I/postgresql.conf
ExecStop=
ExecReload=
ExecReload=/bin/kill -HUP \$MAINPID
KillMode=mixed
KillSignal=SIGINT
END
echo 'host all all samenet trust' >> "$root/etc/postgresql/$version/main/pg_hba.conf"

# What would differ, and what nobody reads.
rm -f "$root"/etc/ssl/private/ssl-cert-snakeoil.key "$root"/etc/ssl/certs/ssl-cert-snakeoil.pem
find "$root/etc/ssl/certs" -xtype l -delete
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/cache/debconf/* \
    "$root"/var/lib/dpkg/*-old "$root"/var/cache/ldconfig/aux-cache \
    "$root"/var/lib/systemd/random-seed "$root"/etc/*- "$root"/etc/resolv.conf
# How this machine gets its packages is no part of the image.
rm -f "$root"/etc/apt/sources.list "$root"/etc/apt/sources.list.d/* \
    "$root"/etc/apt/apt.conf.d/99mmdebstrap "$root"/etc/dpkg/dpkg.cfg.d/99mmdebstrap
find "$root/var/log" -type f -delete
: > "$root/etc/machine-id"
