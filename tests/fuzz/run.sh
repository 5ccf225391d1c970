#!/bin/sh
# Runs a fuzz target for a bounded time, from the seeds that it is given: run.sh TARGET SECONDS
# [SEEDS] What it finds is kept nowhere but in the failing test's output (libFuzzer prints it in
# base64).
found=$(mktemp -d) || exit 1
trap 'rm -rf "$found"' EXIT
"$1" -max_total_time="$2" -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$found/" -verbosity=1 \
    "$found" ${3:+"$3"}
