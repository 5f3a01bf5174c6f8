#!/usr/bin/env bash
# Runs under Miri what can go wrong without a word: the codecs and decoders, the log's records, the memtable and the
# memory that it lies in, and a small database in the mode that owns its bytes (Miri has no mappings of files), on the
# simulated disk. Tests that need real files, or take too long here, say so beside them (`cfg_attr(miri, ignore)`).
#
# MIRIFLAGS: tree borrows and permissive provenance, because the epochs of rayon's queues (crossbeam) make pointers
# from integers, and rayon leaves its threads running at the end; isolation is off, so that seeds can be read.
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
# The mutations of each seed that the decoders get.
export PLIMSOLL_MUTATIONS=${PLIMSOLL_MUTATIONS:-8}

# run WHAT ARGUMENTS...: the tests of one crate, and how long they took.
run() {
    local what=$1 start=$SECONDS
    shift
    cargo +nightly miri test --quiet "$@"
    printf 'miri: %s, %d s\n' "$what" $((SECONDS - start))
}

run "base: codec, header, arena" -p plimsoll-base --lib
run "wal: format, records, groups" -p plimsoll-wal --lib
run "wal: a log on the simulated disk" -p plimsoll-wal --test wal -- log:: golden::
run "shard: checksums, names" -p plimsoll-shard --lib -- names:: a_checksum
run "engine: records, memtable index, lists" -p plimsoll-engine --lib -- record:: memtable:: append_list:: manifest:: model::
run "decoders, and a small database" -p plimsoll-hostile --test seeds_and_mutations
