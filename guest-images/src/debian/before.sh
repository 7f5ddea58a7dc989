#!/bin/sh
# Before the packages are set up: $1 is the root.
set -e
# The cluster is made by customize.sh, the same every time.
mkdir -p "$1/etc/postgresql-common"
echo "create_main_cluster = false" > "$1/etc/postgresql-common/createcluster.conf"
