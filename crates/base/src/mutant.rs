//! Seeded bugs: each breaks one rule of the protocol, and the tests must see every one of them.
//!
//! Without the feature `mutants`, which only the test runs of `plimsoll-torture mutants` turn on, [`is`] is the
//! constant `false`, and none of this is in the program. With it, the environment variable `PLIMSOLL_MUTANT` names
//! the one bug that the process has.

/// Defines the bugs, and what is known about each.
macro_rules! mutants {
    ($($mutant:ident $rule:literal $what:literal)*) => {
        /// A seeded bug.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mutant {$(
            #[doc = $what]
            $mutant,
        )*}

        impl Mutant {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$mutant),*];

            /// The rule that it breaks, as `docs/reliability.md` numbers them.
            pub const fn rule(self) -> &'static str {
                match self {$(Self::$mutant => $rule,)*}
            }

            /// What it does.
            pub const fn what(self) -> &'static str {
                match self {$(Self::$mutant => $what,)*}
            }
        }
    };
}

mutants! {
    SnapshotSeesLaterWrites "R1" "a snapshot shows what is written after it"
    RepairForgetsKills "R2" "a repair brings back what had been deleted"
    ForgetKill "R2" "a flush does not kill the stored version of a document"
    CompactAwayUnflushedKills "R2" "a compaction drops documents whose deletion is only in memory"
    SealTooHigh "R3" "a seal covers a record that is not written yet"
    FlushBeforeDurable "R3" "a flush does not wait until the log is durable"
    ReplayPastHole "R4" "replay goes on behind an invalid record"
    TornTailIsDamage "R4" "a torn tail is reported as damage"
    DamageIsTornTail "R4" "proven damage is cut off like a torn tail"
    OmitDurableBefore "R4" "sync groups do not say what was durable before them"
    DurableBeforeTooHigh "R4" "sync groups claim to be durable themselves"
    SkipRecordChecksum "R4" "the checksum of a record's payload is not checked"
    ForgetDurable "R4" "manifests do not say up to where the log is durable"
    RotateUnsynced "R5" "a new log segment is begun although the one before is not synced"
    AppendAfterFailedAppend "R5" "a segment is written to after an append to it failed"
    SkipLogDirectorySync "R5" "the name of a new log segment is not synced"
    NameSegmentLate "R5" "no manifest names a new log segment before its writes are acknowledged"
    NameSegmentUnsynced "R5" "opening names a log segment in a manifest although its own name is not synced"
    ReuseFileNumbers "R5" "file numbers begin anew when the database is opened"
    SkipLogSync "R6" "the log is not synced, and everything acts as if it were"
    AcknowledgeBeforeSync "R6" "a durable write is acknowledged before its sync"
    IgnoreAppendError "R6" "a failed append to the log counts as done"
    IgnoreSyncError "R6" "a failed sync of the log counts as done"
    BelieveRetriedSync "R6" "a failed sync does not poison: the next one is believed"
    SyncCoversLater "R6" "a sync of the log counts for what was appended while it ran"
    IgnoreBufferBound "R6" "buffered writes are not synced when there are as many as are allowed"
    PublishPoisoned "R6" "a poisoned database publishes what it flushes or compacts"
    NamePoisoned "R6" "a poisoned database names a new log segment in a manifest"
    JoinEarlierFlush "R6" "who asks for a flush is given one that began before what it is to cover"
    RepairReplaysOver "R7" "a repair replaces what files hold by older records of the log"
    FlushedTooHigh "R7" "the manifest says that one record more is flushed than is"
    PointerIgnoresUnflushed "R7" "the log's pointer passes records that are only in memory"
    IdleHoldsPointer "R7" "a collection without unflushed data holds the log's pointer back"
    ReplayKnowsDropped "R7" "replay stumbles over records of dropped collections"
    SkipDataSync "R8" "a data file is published without a sync"
    SkipDataDirectorySync "R8" "the names of new data files are not synced"
    SkipManifestSync "R8" "a manifest is published without a sync"
    RenameManifestFirst "R8" "a manifest gets its name before it is synced"
    SkipManifestDirectorySync "R8" "the name of a new manifest is not synced"
    ReleaseLogEarly "R8" "log segments go before the manifest that makes them superfluous is durable"
    ForgetAmbiguity "R8" "after a publish of unknown outcome the new files are removed"
    ReleaseFilesEarly "R9" "data files go before the manifest that does without them is durable"
    RemoveHeldFiles "R9" "data files go although a snapshot holds them"
    OpeningRemovesNewer "R9" "an opening removes files whose writes nothing else has"
    RepairMovesFirst "R9" "a repair moves damaged files away before a manifest does without them"
    RepairNotesNothing "R9" "a repair does not write down which files it is going to move away"
    ReaderShowsUnproven "R10" "a reading process shows records that may not be durable"
    LoseMetadata "R11" "merging posting files drops the metadata"
    KeepOldGenerations "R12" "index generations without rows stay visible"
    ShiftRows "R13" "a list of a segment begins one row too early"
    ForgetLeftJobs "R14" "jobs that a crash has cut off are not gone on with"
    RecordSaysCompleted "R14" "the record of a job that failed says that it was done"
    OpeningReadsRows "R15" "opening reads whole files"
    NoReserve "R16" "no reserve is kept for a full disk"
    WritersSpendReserve "R16" "any write may use what the reserve has given"
    SilentlyPartial "R17" "a partial answer does not say what is missing"
    RepairCountsNothing "R17" "a repair does not say what is lost"
    MapAlways "R18" "files are mapped in reading mode, too"
    SkipBlockChecksum "R18" "the checksums of a sealed file's blocks are not checked"
    SkipValidation "R19" "vectors are not validated before they are logged"
    AddInOrder "R20" "one level of the kernels adds its lanes in another order"
}

/// Whether this process has the bug.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn is(_: Mutant) -> bool {
    false
}

/// Whether this process has the bug.
#[cfg(feature = "mutants")]
pub fn is(mutant: Mutant) -> bool {
    static CHOSEN: std::sync::LazyLock<Option<Mutant>> = std::sync::LazyLock::new(|| {
        let name = std::env::var("PLIMSOLL_MUTANT").ok()?;
        Mutant::ALL.iter().copied().find(|mutant| format!("{mutant:?}") == name)
    });
    *CHOSEN == Some(mutant)
}
