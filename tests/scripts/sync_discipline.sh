#!/usr/bin/env bash
# Watches the program with strace and holds every system call that matters to the rules of durability:
#
#   - one writer costs one fdatasync of the log for each durable batch;
#   - `ACK n` is printed only when every record written to the log before it is synced;
#   - a file gets its final name only when all its bytes are synced, its directory is synced after that, and before a
#     manifest names the file or anything that needs it is acknowledged;
#   - a file under its final name is never opened for writing again;
#   - there is no writable shared mapping, and no msync;
#   - the syncs of a flush do not grow with the number of shards or lists.
#
# Usage: tests/scripts/sync_discipline.sh          (Linux, needs strace; builds the program if that is not done)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
if ! command -v strace >/dev/null; then
    echo "sync_discipline: skipped, strace is not installed"
    exit 0
fi
target=$(cd "$root" && cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
(cd "$root" && cargo build --release --quiet)
plimsoll=$target/release/plimsoll
vectors=$root/crates/cli/data/rustdocs/vectors.npy
scratch=$(cd "$(mktemp -d)" && pwd -P)
trap 'rm -rf "$scratch"' EXIT
db=$scratch/watched.db

# watch NAME COMMAND...: runs a command under strace and checks its trace.
watch() {
    local name=$1
    shift
    strace -f -y -s 64 -o "$scratch/$name.trace" \
        -e trace=openat,write,pwrite64,writev,fsync,fdatasync,rename,renameat,renameat2,linkat,mmap,msync,sync_file_range \
        "$@" >"$scratch/$name.out" 2>"$scratch/$name.err" || { cat "$scratch/$name.err" >&2; return 1; }
    check "$name"
}

# check NAME: holds a trace to the rules, and prints what it counted.
check() {
    awk -v name="$1" -v db="$db" -f "$root/tests/scripts/sync_discipline.awk" "$scratch/$1.trace"
}

echo "--- an import of 3,000 rows in 30 batches by one writer, and the flush at its end"
watch import "$plimsoll" import "$db" c "$vectors" --ack --batch-size 100
[[ $(grep -c '^ACK ' "$scratch/import.out") == 30 ]]

echo "--- the same rows again: every one replaces an older one"
watch replace "$plimsoll" import "$db" c "$vectors" --ack --batch-size 1000

echo "--- compaction"
watch compact "$plimsoll" compact "$db"

echo "--- an import that is killed, and the recovery and flush after it"
mkfifo "$scratch/rows"
"$plimsoll" import "$db" c "$scratch/rows" --format jsonl --ack --batch-size 1 >"$scratch/killed.out" &
writer=$!
exec 3>"$scratch/rows"
zeros=$(printf '0,%.0s' $(seq 383))
for id in 1 2 3 4 5; do printf '{"id": %d, "vector": [%s%d]}\n' "$id" "$zeros" "$id" >&3; done
for _ in $(seq 100); do
    if grep -q '^ACK 5$' "$scratch/killed.out"; then break; fi
    sleep 0.1
done
{
    kill -KILL "$writer"
    wait "$writer" || true
} 2>/dev/null
exec 3>&-
grep -q '^ACK 5$' "$scratch/killed.out"
watch recover "$plimsoll" flush "$db"
[[ $("$plimsoll" count "$db" c) == 3000 ]]
"$plimsoll" verify "$db" >/dev/null

echo "--- the same flush of 1,000 rows into one shard, many shards, and twice as many shards and lists"
# flush_syncs ROWS SHARD_ROWS: flushes into a database of that many rows, with shards of that size; prints its shards
# and lists, the syncs of the flush as the program counted them, and those of the whole run beyond one for each batch.
flush_syncs() {
    local trace=$scratch/flush-$1-$2.trace report=$scratch/flush-$1-$2.json field
    strace -f -o "$trace" -e trace=fsync,fdatasync \
        "$plimsoll" bench flush --rows 1000 --base "$1" --dim 16 --shard-rows "$2" --dir "$scratch" --json >"$report"
    for field in shards lists files_synced dir_syncs; do
        sed "s/.*\"$field\":\([0-9]*\).*/\1/" "$report"
    done
    echo $(($(grep -cE '(fsync|fdatasync)\(' "$trace") - $1 / 1000))
}
one=($(flush_syncs 8000 65536))
many=($(flush_syncs 8000 256))
most=($(flush_syncs 16000 256))
printf '%8s %8s %14s %12s %22s\n' shards lists "files synced" "dir syncs" "syncs of the whole run"
printf '%8d %8d %14d %12d %22d\n' "${one[@]}" "${many[@]}" "${most[@]}"
if ((many[0] < 8 * one[0] || most[0] <= many[0] || most[1] <= many[1])); then
    echo "these should be more and more shards and lists" >&2
    exit 1
fi
if [[ ${one[*]:2} != "${many[*]:2}" || ${one[*]:2} != "${most[*]:2}" ]]; then
    echo "the syncs of a flush depend on the number of shards or lists" >&2
    exit 1
fi
echo "sync discipline: all rules hold"
