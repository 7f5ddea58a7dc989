#!/bin/sh
# Listens for the agent's clients, if the kernel's command line has `ftvm.agent`.
grep -qw ftvm.agent /proc/cmdline || exec sleep 2147483647
exec nc -ll -p 7077 -e /usr/bin/agent
