# The names that .ci/run uses, too. `just` alone lists them.

_default:
    @just --list

# Formatting, lints and documentation
check:
    .ci/run format lints docs

# All tests, the documentation's among them
test:
    cargo test

# A minute of each fuzz target, from the seeds in the repository (needs nightly and cargo-fuzz)
fuzz-smoke seconds="60":
    tests/scripts/fuzz_smoke.sh {{seconds}}

# What only nightly tools see: undefined behaviour, bad memory accesses, data races; and model-checked schedules
sanitize:
    tests/scripts/miri.sh
    tests/scripts/sanitizers.sh address
    tests/scripts/sanitizers.sh thread
    tests/scripts/shuttle.sh

# Crashes: the log in every state a power cut may leave, and a thousand kills of a real process
crash:
    cargo test --release -p plimsoll-wal -- --include-ignored crash
    PLIMSOLL_KILLS=1000 cargo test --release -p plimsoll-cli --test kill -- --nocapture

# Real power cuts on ext4 and XFS, full disks, limits of the process (Linux, root; skips what is missing)
real-kernel:
    tests/scripts/real_kernel.sh

# Seeded bugs, each of which some test must see
mutants:
    cargo run -p plimsoll-torture -- mutants

# What this machine does: syncs, flushes, opening, search, and single kernels
bench:
    cargo build --release
    cargo run --release -- bench ingest --vectors crates/cli/data/rustdocs/vectors.npy
    cargo run --release -- bench flush
    cargo run --release -- bench recovery
    cargo bench --workspace

# The whole story on bundled data
demo:
    cargo run --release -- demo

# Everything that must hold before a change goes in
ci:
    .ci/run
