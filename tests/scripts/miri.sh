#!/usr/bin/env bash
# Runs under Miri what can go wrong without a word: the codec, the memory that records lie in (all unsafe code but the
# kernels and mappings), the log's formats and group commit, and the memtable. Tests that need real files, or take
# minutes here, say so beside them (`cfg_attr(miri, ignore)`).
#
# MIRIFLAGS: tree borrows and permissive provenance, because the epochs of rayon's queues (crossbeam) make pointers
# from integers, and rayon leaves its threads running at the end; isolation is off, so that seeds can be read.
#
# Whole databases, and the targets of plimsoll-hostile, take Miri hours; `PLIMSOLL_MUTATIONS=1 cargo +nightly miri test
# -p plimsoll-hostile` runs them. The engine forbids unsafe code.
#
# Usage: tests/scripts/miri.sh          (needs the nightly toolchain with the component miri)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if ! cargo +nightly miri --version >/dev/null 2>&1; then
    echo "miri: skipped, there is no nightly toolchain with the component miri"
    exit 0
fi
export MIRIFLAGS="-Zmiri-tree-borrows -Zmiri-permissive-provenance -Zmiri-disable-isolation -Zmiri-ignore-leaks"
# To name the lines of a backtrace takes Miri minutes, and some tests panic on purpose.
export RUST_BACKTRACE=0
# Few cases of each property.
export PROPTEST_CASES=${PROPTEST_CASES:-4}

# run WHAT ARGUMENTS...: the tests of one crate, and how long they took.
run() {
    local what=$1 start=$SECONDS
    shift
    cargo +nightly miri test --quiet "$@"
    printf 'miri: %s, %d s\n' "$what" $((SECONDS - start))
}

run "base: codec, header, arena" -p plimsoll-base --lib
run "wal: formats, records, groups" -p plimsoll-wal --lib
run "shard: checksums, names" -p plimsoll-shard --lib -- names:: a_checksum
run "engine: records, memtable index, lists" -p plimsoll-engine --lib -- record:: memtable:: append_list:: manifest:: model::
