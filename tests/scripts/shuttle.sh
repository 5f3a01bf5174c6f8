#!/usr/bin/env bash
# Runs the threads of group commit, of snapshots, seals, flushes and poisoning in SCHEDULES (10,000) schedules for each
# test, chosen by shuttle: half at random, half with three changes of the running thread at chosen places. A schedule
# that fails is printed, and replays with `shuttle::replay`.
#
# Usage: tests/scripts/shuttle.sh [SCHEDULES]          (stable Rust; builds in a directory of its own)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PLIMSOLL_SCHEDULES=${1:-10000}
export RUSTFLAGS="--cfg shuttle"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/shuttle
for crate in wal engine; do
    start=$SECONDS
    cargo test --quiet --release -p "plimsoll-$crate" --lib -- schedules::
    printf 'shuttle: %s, %d schedules of each test, %d s\n' "$crate" "$PLIMSOLL_SCHEDULES" $((SECONDS - start))
done
