//! The properties that a database keeps, through its public face. One program, so that it is linked once.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed test is a panic")]

mod background_log;
mod buffered_writes;
mod calibration;
mod concurrency_interleaved;
mod concurrency_threads;
mod crash_workloads;
mod dedup;
mod exact_records;
mod faults_everywhere;
mod faults_poison;
mod filters;
mod flush_corners;
mod flush_counters;
mod flush_jobs;
mod flush_policies;
mod gate;
mod hidden_rows;
mod index_recall;
mod interrupts;
mod limits_directories;
mod limits_refused;
mod model_random;
mod opening_and_damage;
mod preload;
mod recovery_flushes;
mod repair_and_strangers;
mod repair_keeps;
mod smoke;
mod sources;
