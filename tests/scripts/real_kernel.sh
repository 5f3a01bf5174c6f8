#!/usr/bin/env bash
# The real program on the real kernel: power cuts on ext4 and XFS, full disks, limits of the process. Needs Linux and
# root; what can not be done here is skipped and says so. `real_kernel.sh CUTS` sets how often the power is cut on
# each file system (100); with --short it is cut five times on ext4, and that is all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cargo build --release --quiet -p plimsoll-cli -p plimsoll-torture
torture=${CARGO_TARGET_DIR:-target}/release/plimsoll-torture

if [[ ${1:-} == --short ]]; then
    "$torture" power-cuts --filesystem ext4 --cuts 5
    exit
fi
for filesystem in ext4 xfs; do
    "$torture" power-cuts --filesystem "$filesystem" --cuts "${1:-100}"
done
"$torture" small-disks
"$torture" limits
