#!/bin/sh
# Answers each line with its number.
count=0
while read -r _; do
    count=$((count + 1))
    echo "$count"
done
