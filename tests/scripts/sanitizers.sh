#!/usr/bin/env bash
# Runs tests on real files under a sanitizer, with a standard library that is instrumented, too.
#
#   address   bad memory accesses: shard, engine, and the properties of whole databases, with mapped files
#   thread    data races: group commit, the memtable's index and lists, and readers beside writers, flushes, compactions
#
# Usage: tests/scripts/sanitizers.sh address|thread          (Linux, x86-64; needs nightly with the component rust-src)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
sanitizer=${1:?address or thread}
target=x86_64-unknown-linux-gnu
source=$(rustc +nightly --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library/std/Cargo.toml
if [[ ! -f $source ]]; then
    echo "sanitizers: $sanitizer skipped, there is no nightly toolchain with the component rust-src"
    exit 0
fi
if [[ $(rustc +nightly -vV | sed -n 's/^host: //p') != "$target" ]]; then
    echo "sanitizers: $sanitizer skipped, this is not $target"
    exit 0
fi
export RUSTFLAGS="-Zsanitizer=$sanitizer"
# Its own directory: everything is built again with other flags.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/$sanitizer

# run WHAT ARGUMENTS...: some tests, and how long they took.
run() {
    local what=$1 start=$SECONDS
    shift
    cargo +nightly test --quiet -Zbuild-std --target "$target" "$@"
    printf '%s: %s, %d s\n' "$sanitizer" "$what" $((SECONDS - start))
}

case $sanitizer in
    address)
        # Leaks are not what this is about, and threads of rayon never end.
        export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=1
        run "shard" -p plimsoll-shard --lib --test damage --test golden --test hostile --test round_trip
        run "engine" -p plimsoll-engine --lib
        run "databases" -p plimsoll --test properties -- concurrency limits opening index model_random smoke
        ;;
    thread)
        export TSAN_OPTIONS=halt_on_error=1
        run "group commit" -p plimsoll-wal --lib -- group
        run "memtable" -p plimsoll-engine --lib -- append_list memtable
        run "databases" -p plimsoll --test properties -- concurrency_threads background
        ;;
    *)
        echo "sanitizers: $sanitizer is neither address nor thread" >&2
        exit 2
        ;;
esac
