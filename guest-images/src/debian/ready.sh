#!/bin/sh
# Tells the console when PostgreSQL takes connections.
pg_isready=$(echo /usr/lib/postgresql/*/bin/pg_isready)
until "$pg_isready" --quiet --host 127.0.0.1; do
    sleep 0.2
done
echo "ftvm-guest: postgres ready" > /dev/console
