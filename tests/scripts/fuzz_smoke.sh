#!/usr/bin/env bash
# Gives each fuzz target SECONDS (60) with libFuzzer and AddressSanitizer, from a copy of the seeds in fuzz/seeds, and
# prints one line for each: executions, coverage, findings. An input that breaks a promise is kept in fuzz/artifacts,
# and the exit code is 1.
#
# Limits: 64 KiB of input; 10 s for one; 1 GiB in all; a single allocation of 5 MiB (64 times the largest input, and
# 1 MiB), or 64 MiB for the targets that open a whole database.
#
# Usage: tests/scripts/fuzz_smoke.sh [SECONDS [TARGET...]]          (needs the nightly toolchain and cargo-fuzz)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
seconds=${1:-60}
if ! cargo +nightly --version >/dev/null 2>&1; then
    echo "fuzz_smoke: skipped, there is no nightly toolchain"
    exit 0
fi
if ! cargo +nightly fuzz --version >/dev/null 2>&1; then
    echo "fuzz_smoke: skipped, cargo-fuzz is not installed"
    exit 0
fi
cd "$root/fuzz"
mapfile -t targets < <(if (($# > 1)); then printf '%s\n' "${@:2}"; else cargo +nightly fuzz list; fi)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# last NAME FILE: the last number after NAME in libFuzzer's output.
last() {
    grep -oE "$1 +[0-9]+" "$2" | tail -n 1 | grep -oE '[0-9]+$' || echo 0
}

failed=0
for target in "${targets[@]}"; do
    corpus=$scratch/$target log=$scratch/$target.log
    cp -r "seeds/$target" "$corpus"
    flags=(-max_total_time="$seconds" -max_len=65536 -timeout=60 -rss_limit_mb=1024 -print_final_stats=1)
    case $target in
        manifest | log_record | directory) flags+=(-malloc_limit_mb=64) ;;
        *) flags+=(-malloc_limit_mb=5) ;;
    esac
    if [[ -f dictionaries/$target.dict ]]; then flags+=(-dict="dictionaries/$target.dict"); fi
    findings=0
    if ! cargo +nightly fuzz run "$target" "$corpus" -- "${flags[@]}" >"$log" 2>&1; then
        findings=1 failed=1
    fi
    printf '%-12s %9d executions, coverage %6d, %5d inputs, %d findings\n' "$target" \
        "$(last 'stat::number_of_executed_units:' "$log")" "$(last 'cov:' "$log")" \
        "$(find "$corpus" -type f | wc -l)" "$findings"
    if ((findings > 0)); then grep -E 'panicked at|ERROR|SUMMARY|Test unit written|^error' -A 1 "$log" || tail -n 20 "$log"; fi
done
exit "$failed"
