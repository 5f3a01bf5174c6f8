//! The writer of the log: gives LSNs, appends groups, syncs, rotates, marks, removes.
//!
//! **Owns** the chain of LSNs and the watermarks *appended* and *durable*, and the decision that the log is
//! poisoned. **Must not know** what a payload means or who waits for it. **On a crash** everything up to
//! *durable* survives; what was appended after it may survive in part, but never with a gap.
//!
//! # LSNs of a failed append are used again
//! A group that failed to append may stand in its segment in part or even whole, and the next group gets the
//! same LSNs. Replay can not confuse the two. The segment is given up: the next group goes to a new one,
//! whose header says that the old one ends *before* the failed group, and which has its final name, durably,
//! before anything in it is acknowledged. So either replay finds the new segment, and does not read past that
//! end; or it does not find it, and then nothing of the second group exists at all. In the second case the
//! failed group may come back whole, record by record: its outcome is open from its error until the next
//! append that succeeds, or a reopening.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::Storage;
use plimsoll_base::{FileNumber, Lsn, StorageError};

use crate::chain::ClosedSegment;
use crate::format::{
    MAX_PAYLOAD, Previous, RECORD_HEADER_LEN, RecordHeader, RecordKind, SEGMENT_HEADER_LEN, SegmentHeader,
    segment_path,
};
use crate::obsolete::Obsolete;
use crate::pending::{FinishedSync, PendingSync};
use crate::recovery::Recovered;
use crate::segment::{ActiveSegment, SpareFile, Spares, remove_stray};
use crate::tail::Tail;
use crate::{LsnRange, Record, Result, WalError};

/// Where the salts of new segments come from: the operating system's randomness, or a simulator's seed.
pub type SaltSource = Box<dyn FnMut() -> u64 + Send>;

/// Records up to this length are copied together and written by one call; larger ones are written as they are.
pub(crate) const COALESCE: usize = 64 * 1024;

/// How the log is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalOptions {
    /// The size of a segment in bytes, preallocated. A group that is larger gets a segment of its own.
    pub segment_bytes: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20 }
    }
}

/// What the writer has done since it was opened, and what the log consists of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Groups appended.
    pub groups: u64,
    /// Records appended, marks not among them.
    pub records: u64,
    /// Bytes of records appended, headers and padding included.
    pub bytes: u64,
    /// Marks appended.
    pub marks: u64,
    /// Syncs of segment files, also those of a rotation, and those beside the writer.
    pub syncs: u64,
    /// Appends that failed.
    pub failed_appends: u64,
    /// Segments started.
    pub segments_started: u64,
    /// Segments removed.
    pub segments_removed: u64,
    /// Segments on disk now, the active one included, the spare not.
    pub segments: u64,
    /// The length of their files in bytes, preallocated space included.
    pub disk_bytes: u64,
    /// Whether a spare segment is ready.
    pub spare_ready: bool,
}

/// The writer of a log. There is one at a time; the database's lock sees to that.
pub struct Wal {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    database: [u8; 16],
    salt: SaltSource,
    spares: Spares,
    active: Option<ActiveSegment>,
    /// Where the segment before the first one of this writer ends.
    inherited: Previous,
    /// Records after that end, not proven durable: they are copied to this writer's first segment.
    tail: Option<Tail>,
    closed: Vec<ClosedSegment>,
    next_number: FileNumber,
    appended: Lsn,
    durable: Lsn,
    /// The largest LSN that the log itself says is durable.
    marked: Lsn,
    poison: Option<WalError>,
    buffer: Vec<u8>,
    stats: WalStats,
}

impl Wal {
    /// Continues a recovered log. Nothing is written until the first append or sync needs a segment; only
    /// temporary files of an earlier writer are removed.
    pub(crate) fn new(recovered: Recovered, options: WalOptions, salt: SaltSource) -> Self {
        let Recovered { storage, dir, database, next_lsn, durable, closed, inherited, tail, .. } = recovered;
        for stray in &recovered.strays {
            remove_stray(&*storage, &crate::format::spare_path(&dir, *stray));
        }
        let next_spare = recovered.strays.iter().max().map_or(1, |last| last.saturating_add(1));
        let spares = Spares::new(Arc::clone(&storage), dir.clone(), options.segment_bytes, next_spare);
        Self {
            storage,
            dir,
            database,
            salt,
            spares,
            active: None,
            inherited,
            tail,
            closed,
            next_number: recovered.next_number,
            appended: Lsn(next_lsn.0 - 1),
            durable,
            marked: durable,
            poison: None,
            buffer: Vec::new(),
            stats: WalStats::default(),
        }
    }

    /// Appends the records in order with consecutive LSNs, and syncs if asked to. Small records are written
    /// by one call together. Returns the LSNs given; with `sync` they are durable.
    ///
    /// A group never spans two segments; one that does not fit starts a new segment, large enough.
    ///
    /// # Errors
    /// [`WalError::Storage`] when the append failed: nothing of the group counts, the next append goes to a
    /// new segment. [`WalError::Poisoned`] when a sync failed, now or earlier. [`WalError::RecordTooLarge`].
    pub fn append_group(&mut self, records: &mut [&mut Record], sync: bool) -> Result<LsnRange> {
        self.check()?;
        let mut bytes = 0;
        for record in records.iter() {
            if record.payload_len() > MAX_PAYLOAD {
                return Err(WalError::RecordTooLarge { len: record.payload_len(), limit: MAX_PAYLOAD });
            }
            bytes += record.encoded_len() as u64;
        }
        let given = LsnRange::after(self.appended, Lsn(self.appended.0 + records.len() as u64));
        if !records.is_empty() {
            self.make_room(bytes)?;
            self.write_group(records)?;
            self.appended = given.last;
            self.stats.groups += 1;
            self.stats.records += records.len() as u64;
            self.stats.bytes += bytes;
        }
        if sync && !mutant::is(Mutant::AcknowledgeBeforeSync) {
            self.sync()?;
        }
        Ok(given)
    }

    /// Makes everything appended durable, also what recovery found but could not prove to be durable.
    /// Returns the durable LSN. Does nothing if there is nothing to do.
    ///
    /// # Errors
    /// [`WalError::Poisoned`] when the sync failed, now or earlier.
    pub fn sync(&mut self) -> Result<Lsn> {
        self.check()?;
        if self.durable < self.appended {
            if self.active.is_some() {
                self.sync_active()?;
            } else {
                self.start_segment(0)?;
            }
        }
        Ok(self.durable)
    }

    /// Begins a sync of everything appended so far, which any thread runs while this writer goes on:
    /// [`PendingSync::run`], and then [`Wal::finish_sync`]. `None` if everything is durable; it is made so here and now
    /// where only what recovery found is not.
    ///
    /// # Errors
    /// As [`Wal::append_group`].
    pub fn begin_sync(&mut self) -> Result<Option<PendingSync>> {
        self.check()?;
        if self.durable >= self.appended {
            return Ok(None);
        }
        let Some(active) = &self.active else {
            self.start_segment(0)?;
            return Ok(None);
        };
        let (segment, number, end) = (Arc::clone(&active.sync), active.number, active.end);
        Ok(Some(PendingSync { segment, number, end, appended: self.appended }))
    }

    /// Counts what a sync beside the writer has made durable, and returns the durable LSN. What was appended while it
    /// ran waits for the next one.
    ///
    /// # Errors
    /// [`WalError::Poisoned`] when the sync failed, or another one did meanwhile: also when its segment was followed by
    /// another since, which had the rest of it synced.
    pub fn finish_sync(&mut self, finished: FinishedSync) -> Result<Lsn> {
        self.stats.syncs += 1;
        self.check()?;
        let FinishedSync { sync, result } = finished;
        result.map_err(|cause| self.poison(cause))?;
        if let Some(active) = self.active.as_mut().filter(|active| active.number == sync.number) {
            active.synced = active.synced.max(sync.end);
        }
        let covered = if mutant::is(Mutant::SyncCoversLater) { self.appended } else { sync.appended };
        self.durable = self.durable.max(covered);
        Ok(self.durable)
    }

    /// Appends a mark, so that reader processes see all that is durable (R10), unless the log says so
    /// already. Does not sync. Returns whether one was written.
    ///
    /// # Errors
    /// As [`Wal::append_group`].
    pub fn append_mark(&mut self) -> Result<bool> {
        self.check()?;
        if self.marked >= self.durable {
            return Ok(false);
        }
        self.make_room(RECORD_HEADER_LEN as u64)?;
        let Some(active) = self.active.as_mut().filter(|_| self.marked < self.durable) else {
            return Ok(false); // A new segment's header has said it.
        };
        let mark = RecordHeader {
            payload_len: 0,
            payload_crc: 0,
            lsn: self.appended,
            durable_before: self.durable,
            kind: RecordKind::Mark,
        };
        if let Err(error) = active.file.append(&mark.encode(active.salt)) {
            active.broken = true;
            self.stats.failed_appends += 1;
            return Err(error.into());
        }
        active.end += RECORD_HEADER_LEN as u64;
        self.marked = self.durable;
        self.stats.marks += 1;
        Ok(true)
    }

    /// Starts a new segment now; what came before is synced. Opening and closing leave an empty log without
    /// any file, so whoever sets up a log that does not begin at LSN 1 (a repair) calls this.
    ///
    /// # Errors
    /// As [`Wal::append_group`].
    pub fn rotate(&mut self) -> Result<()> {
        self.check()?;
        self.start_segment(0)
    }

    /// Leaves as little as possible behind when everything is flushed: a segment that is nothing but its
    /// header follows the last one, and all others are removed. Does nothing if there is something above
    /// `flushed`, up to which a durable manifest needs no log, or nothing to be gained.
    ///
    /// # Errors
    /// As [`Wal::append_group`].
    pub fn shrink(&mut self, flushed: Lsn) -> Result<()> {
        self.check()?;
        let gains = self.active.is_some() || self.closed.iter().any(|old| old.bytes > SEGMENT_HEADER_LEN);
        if gains && self.appended <= flushed {
            let smallest = self.spares.take_exact(SEGMENT_HEADER_LEN)?;
            self.follow_with(smallest)?;
            self.remove_below(flushed)?;
        }
        Ok(())
    }

    /// Removes every segment all of whose records are at or below `lsn`, never the active one. The manifest
    /// that makes them superfluous must be durable. Returns how many were removed.
    ///
    /// # Errors
    /// [`WalError::Storage`]; what could not be removed stays and is tried again by the next call.
    pub fn remove_below(&mut self, lsn: Lsn) -> Result<u64> {
        let mut obsolete = self.obsolete(lsn)?;
        let result = obsolete.remove();
        let removed = self.forget(&obsolete);
        result.map(|()| removed)
    }

    /// The segments that [`Wal::remove_below`] would remove, so that they can be removed while the writer goes
    /// on: [`Obsolete::remove`], and then [`Wal::forget`]. One thread at a time may do this.
    ///
    /// # Errors
    /// [`WalError::Poisoned`].
    pub fn obsolete(&self, lsn: Lsn) -> Result<Obsolete> {
        self.check()?;
        // What was inherited and not yet followed by a segment of this writer is still the log's end.
        let newest = if self.active.is_some() { FileNumber(u64::MAX) } else { self.inherited.number };
        let obsolete = self.closed.iter().filter(|s| s.last_lsn <= lsn && s.number != newest);
        let numbers = obsolete.map(|segment| segment.number).collect();
        Ok(Obsolete::new(Arc::clone(&self.storage), self.dir.clone(), numbers))
    }

    /// Counts what was removed as gone. Returns how many segments that are.
    pub fn forget(&mut self, obsolete: &Obsolete) -> u64 {
        let gone = obsolete.removed();
        self.closed.retain(|segment| !gone.contains(&segment.number));
        self.stats.segments_removed += gone.len() as u64;
        gone.len() as u64
    }

    /// Syncs, leaves a mark, and removes the spare.
    ///
    /// # Errors
    /// As [`Wal::append_group`]; the spare is removed all the same.
    pub fn close(mut self) -> Result<()> {
        let synced = self.sync().and_then(|_| self.append_mark());
        self.spares.close();
        synced.map(|_| ())
    }

    /// The last LSN appended.
    pub fn appended(&self) -> Lsn {
        self.appended
    }

    /// Bytes of records appended since it was opened: [`WalStats::bytes`], at less cost.
    pub fn bytes_appended(&self) -> u64 {
        self.stats.bytes
    }

    /// The last LSN known to be durable.
    pub fn durable(&self) -> Lsn {
        self.durable
    }

    /// The newest segment, which this writer or one before it has started; 0 if there is none.
    pub fn newest(&self) -> FileNumber {
        self.active.as_ref().map_or(self.inherited.number, |active| active.number)
    }

    /// Whether, and why, the log is poisoned.
    pub fn poisoned(&self) -> Option<&WalError> {
        self.poison.as_ref()
    }

    /// The handle by which another thread prepares segments ahead.
    pub fn spares(&self) -> Spares {
        self.spares.clone()
    }

    /// What has been done, and what there is.
    pub fn stats(&self) -> WalStats {
        let active = self.active.as_ref().map_or(0, |active| active.capacity.max(active.end));
        WalStats {
            disk_bytes: self.closed.iter().map(|segment| segment.bytes).sum::<u64>() + active,
            segments: (self.closed.len() + usize::from(self.active.is_some())) as u64,
            spare_ready: self.spares.is_ready(),
            ..self.stats
        }
    }

    fn check(&self) -> Result<()> {
        match &self.poison {
            Some(poison) => Err(poison.clone()),
            None => Ok(()),
        }
    }

    /// The first failed sync is the last (R6).
    fn poison(&mut self, cause: StorageError) -> WalError {
        let poison = WalError::Poisoned { cause, lost: LsnRange::after(self.durable, self.appended) };
        tracing::error!(error = %poison, "the write-ahead log is poisoned");
        self.poison = (!mutant::is(Mutant::BelieveRetriedSync)).then(|| poison.clone());
        poison
    }

    fn sync_active(&mut self) -> Result<()> {
        if let Some(active) = &mut self.active {
            self.stats.syncs += 1;
            if let Err(cause) = active.sync.sync() {
                return Err(self.poison(cause));
            }
            active.synced = active.end;
        }
        self.durable = self.appended;
        Ok(())
    }

    /// Sees to an active segment with room for `bytes`.
    fn make_room(&mut self, bytes: u64) -> Result<()> {
        match &self.active {
            Some(active) if active.has_room(bytes) => Ok(()),
            _ => self.start_segment(bytes),
        }
    }

    fn write_group(&mut self, records: &mut [&mut Record]) -> Result<()> {
        let Some(active) = &mut self.active else { return Ok(()) };
        let mut lsn = self.appended;
        let durable_before = match self.durable {
            _ if mutant::is(Mutant::OmitDurableBefore) => Lsn::ZERO,
            _ if mutant::is(Mutant::DurableBeforeTooHigh) => Lsn(lsn.0 + records.len() as u64),
            durable => durable,
        };
        let mut write = || {
            self.buffer.clear();
            for record in records.iter_mut() {
                lsn = lsn.next();
                record.seal(lsn, durable_before, active.salt);
                append_coalesced(&mut *active.file, &mut self.buffer, record)?;
            }
            flush_coalesced(&mut *active.file, &mut self.buffer)
        };
        if let Err(error) = write()
            && !mutant::is(Mutant::IgnoreAppendError)
        {
            active.broken = !mutant::is(Mutant::AppendAfterFailedAppend);
            self.stats.failed_appends += 1;
            return Err(error.into());
        }
        active.end = active.file.position();
        self.marked = self.durable;
        Ok(())
    }

    /// Starts the next segment with room for `bytes`: syncs the old one, writes the new one's header with the
    /// old one's end (and the tail that recovery could not prove), syncs it, and gives it its name, durably.
    fn start_segment(&mut self, bytes: u64) -> Result<()> {
        let tail_bytes = self.tail.as_ref().map_or(0, Tail::bytes);
        let least = SEGMENT_HEADER_LEN + tail_bytes + bytes;
        let spare = self.spares.take(least)?;
        self.follow_with(spare)
    }

    /// Makes `spare` the active segment.
    fn follow_with(&mut self, mut spare: SpareFile) -> Result<()> {
        let previous = match &self.active {
            Some(active) => active.as_previous(self.appended),
            None => self.inherited,
        };
        if self.active.as_ref().is_some_and(|active| active.synced < active.end)
            && !mutant::is(Mutant::RotateUnsynced)
            && let Err(error) = self.sync_active()
        {
            self.spares.discard(spare);
            return Err(error);
        }
        let number = self.next_number;
        let capacity = if spare.is_preallocated { spare.capacity } else { 0 };
        let header =
            SegmentHeader { capacity, ..SegmentHeader::new(self.database, number, (self.salt)(), previous) };
        if let Err(error) = self.fill(&mut spare, &header) {
            self.spares.discard(spare);
            return Err(error);
        }
        if self.active.is_none() && previous.exists() {
            // The writer before may have died before it synced the name of the segment we follow.
            self.storage.sync_dir(&self.dir).map_err(|cause| self.poison(cause))?;
        }
        // From here on the name may exist, whatever the calls return. So the number is not used again, and the
        // old segment, whose end the new one records, must not grow.
        self.next_number = FileNumber(number.0 + 1);
        if let Some(old) = &mut self.active {
            old.broken = true;
        }
        let SpareFile { file, sync, path, capacity, .. } = spare;
        self.storage.rename_noreplace(&path, &segment_path(&self.dir, number))?;
        if !mutant::is(Mutant::SkipLogDirectorySync)
            && let Err(cause) = self.storage.sync_dir(&self.dir)
        {
            return Err(self.poison(cause));
        }
        if let Some(old) = &self.active {
            self.closed.push(ClosedSegment {
                number: old.number,
                last_lsn: previous.last_lsn,
                bytes: old.capacity.max(old.end),
            });
        }
        let end = file.position();
        let salt = header.salt;
        let sync = Arc::new(sync);
        let synced = end;
        self.active = Some(ActiveSegment { file, sync, number, salt, capacity, end, synced, broken: false });
        self.tail = None;
        self.durable = self.appended;
        self.marked = previous.last_lsn;
        self.stats.segments_started += 1;
        Ok(())
    }

    fn fill(&mut self, spare: &mut SpareFile, header: &SegmentHeader) -> Result<()> {
        spare.file.append(&header.encode())?;
        if let Some(tail) = &self.tail {
            match tail.copy(&*self.storage, &self.dir, &mut *spare.file, header.salt, &mut self.buffer) {
                Ok(()) => {}
                // What recovery read is not there any more: a cache that had lost its disk, for example.
                Err(cause @ StorageError::Corrupted { .. }) => return Err(self.poison(cause)),
                Err(error) => return Err(error.into()),
            }
        }
        self.stats.syncs += 1;
        spare.file.sync().map_err(|cause| self.poison(cause))
    }
}

/// Writes `record`, or keeps it in `buffer` for a later write if it is small.
pub(crate) fn append_coalesced(
    file: &mut dyn plimsoll_base::storage::WriteFile,
    buffer: &mut Vec<u8>,
    record: &Record,
) -> Result<(), StorageError> {
    let encoded = record.encoded();
    if buffer.len() + encoded.len() > COALESCE {
        flush_coalesced(file, buffer)?;
    }
    if encoded.len() >= COALESCE / 2 {
        flush_coalesced(file, buffer)?;
        return file.append(encoded);
    }
    buffer.extend_from_slice(encoded);
    Ok(())
}

/// Writes what [`append_coalesced`] kept.
pub(crate) fn flush_coalesced(
    file: &mut dyn plimsoll_base::storage::WriteFile,
    buffer: &mut Vec<u8>,
) -> Result<(), StorageError> {
    if !buffer.is_empty() {
        file.append(buffer)?;
        buffer.clear();
    }
    Ok(())
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wal")
            .field("dir", &self.dir)
            .field("appended", &self.appended)
            .field("durable", &self.durable)
            .field("active", &self.active)
            .field("poison", &self.poison)
            .finish_non_exhaustive()
    }
}
