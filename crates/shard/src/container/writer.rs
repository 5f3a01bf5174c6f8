//! Writing a container in one pass: bytes are appended, checksummed while they are in the cache, and sealed.

use std::path::{Path, PathBuf};

use plimsoll_base::checksum::{Crc32, crc32};
use plimsoll_base::codec::Encoder;
use plimsoll_base::header::FileHeader;
use plimsoll_base::mutant::{self, Mutant};
use plimsoll_base::storage::{Storage, Syncs, WriteFile};
use plimsoll_base::{FileNumber, Result, StorageError};

use super::{
    BLOCK_LEN, DatabaseId, FileMeta, Footer, SECTION_ALIGNMENT, Section, SectionKind, extend_crc, invalid,
};
use crate::names::{FileName, SealedKind};

/// How often writing back is asked for: otherwise the sync at the end would write everything at once, and the
/// log's syncs would wait behind it.
const WRITEBACK_EVERY: u64 = 1 << 20;
/// What is appended at once, at multiples of itself: a huge page. File systems with large folios (ext4 and XFS on newer
/// Linux) then keep it in one, and a mapping of the file has it in one entry of the page table: searches, which touch
/// many places, take a tenth less time, and the first touch of a file a fraction of the page faults.
pub(super) const BUFFER_LEN: usize = 2 << 20;
const _: () = assert!(BUFFER_LEN.is_multiple_of(BLOCK_LEN));

/// Writes one sealed file, section after section.
///
/// The file is called `NAME.tmp` until [`SealedWriter::finish`]. After any error the writer refuses
/// everything; dropped unfinished, it removes its temporary file if it can (recovery removes it otherwise).
#[derive(Debug)]
pub struct SealedWriter<'a> {
    storage: &'a dyn Storage,
    /// `None` after an error: what was appended is then unknown, and the file is never believed again.
    file: Option<Box<dyn WriteFile>>,
    temporary: PathBuf,
    path: PathBuf,
    name: FileName,
    /// Bytes not yet appended to the file; they begin at a multiple of the block length.
    buffer: Vec<u8>,
    position: u64,
    blocks: Vec<u32>,
    body: Crc32,
    sections: Vec<Section>,
    finished: bool,
}

/// A file that is written, but neither synced nor called by its final name: that is what [`commit_files`]
/// does, once for all files of a flush. Dropped before that, it is removed.
#[derive(Debug)]
#[must_use = "a file is not there before `commit_files` has synced it and its directory"]
pub struct PendingFile<'a> {
    storage: &'a dyn Storage,
    file: Box<dyn WriteFile>,
    /// What the file is called now; `None` once nothing is left to be removed.
    current: Option<PathBuf>,
    path: PathBuf,
    meta: FileMeta,
}

impl PendingFile<'_> {
    /// What a manifest will say about the file. It must not say so before [`commit_files`] returned.
    pub fn meta(&self) -> &FileMeta {
        &self.meta
    }

    fn give_name(&mut self) -> Result<()> {
        if let Some(temporary) = &self.current {
            self.storage.rename_noreplace(temporary, &self.path)?;
        }
        self.current = Some(self.path.clone());
        Ok(())
    }
}

impl Drop for PendingFile<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.current.take() {
            // Only to give the space back early: no manifest names the file.
            let _ignored = self.storage.remove(&path);
        }
    }
}

/// At most so many files are synced at the same time.
const SYNCS: usize = 8;

fn sync_all(files: &mut [PendingFile<'_>], syncs: Syncs) -> Result<()> {
    let sync = |files: &mut [PendingFile<'_>]| files.iter_mut().try_for_each(|file| file.file.sync());
    if syncs == Syncs::InOrder || files.len() < 2 {
        return sync(files);
    }
    let share = files.len().div_ceil(SYNCS);
    std::thread::scope(|scope| {
        let threads: Vec<_> = files.chunks_mut(share).map(|files| scope.spawn(move || sync(files))).collect();
        let synced = threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked)));
        // All of them have ended before any error is told.
        synced.collect::<Vec<_>>().into_iter().collect()
    })
}

/// Files that are synced, and have no names yet. Dropped, they are removed.
#[derive(Debug)]
#[must_use = "a file is not there before it has its name"]
pub struct SyncedFiles<'a> {
    storage: &'a dyn Storage,
    files: Vec<PendingFile<'a>>,
}

/// Files that are synced and have their final names, which their directory may yet lose. Dropped, they are removed.
#[derive(Debug)]
#[must_use = "a file is not there before its directory is synced"]
pub struct NamedFiles<'a> {
    storage: &'a dyn Storage,
    dir: &'a Path,
    files: Vec<PendingFile<'a>>,
}

/// Syncs every file.
///
/// # Errors
/// Those of the storage; all of the files are then removed, as far as that is possible, and their numbers are
/// not to be used again.
pub fn sync_files<'a>(
    storage: &'a dyn Storage,
    files: impl IntoIterator<Item = PendingFile<'a>>,
    syncs: Syncs,
) -> Result<SyncedFiles<'a>> {
    let mut files: Vec<PendingFile<'a>> = files.into_iter().collect();
    if !mutant::is(Mutant::SkipDataSync) {
        sync_all(&mut files, syncs)?;
    }
    Ok(SyncedFiles { storage, files })
}

impl<'a> SyncedFiles<'a> {
    /// Gives every file its final name in `dir`, where they were written, replacing nothing.
    ///
    /// # Errors
    /// As [`sync_files`].
    pub fn give_names(mut self, dir: &'a Path) -> Result<NamedFiles<'a>> {
        self.files.iter_mut().try_for_each(PendingFile::give_name)?;
        Ok(NamedFiles { storage: self.storage, dir, files: self.files })
    }
}

impl NamedFiles<'_> {
    /// Syncs the directory, once: a manifest may name the files when this has returned.
    ///
    /// # Errors
    /// As [`sync_files`].
    pub fn sync_dir(self) -> Result<Vec<FileMeta>> {
        if !self.files.is_empty() && !mutant::is(Mutant::SkipDataDirectorySync) {
            self.storage.sync_dir(self.dir)?;
        }
        let keep = |mut file: PendingFile<'_>| {
            file.current = None;
            file.meta
        };
        Ok(self.files.into_iter().map(keep).collect())
    }
}

/// Syncs files, gives them their names, and syncs the directory: [`sync_files`], [`SyncedFiles::give_names`] and
/// [`NamedFiles::sync_dir`].
///
/// # Errors
/// Theirs.
pub fn commit_files<'a>(
    storage: &'a dyn Storage,
    dir: &'a Path,
    files: impl IntoIterator<Item = PendingFile<'a>>,
    syncs: Syncs,
) -> Result<Vec<FileMeta>> {
    sync_files(storage, files, syncs)?.give_names(dir)?.sync_dir()
}

impl<'a> SealedWriter<'a> {
    /// Begins file `number` of `database` in `dir`, in the newest format version of `kind`.
    ///
    /// # Errors
    /// `AlreadyExists` if a temporary file of that name is left from an earlier attempt (numbers are never
    /// reused, so a retry takes a new one), and any other error of the storage.
    pub fn create(
        storage: &'a dyn Storage,
        dir: &Path,
        kind: SealedKind,
        number: FileNumber,
        database: DatabaseId,
    ) -> Result<Self> {
        let name = FileName::new(kind, number);
        let temporary = dir.join(name.temporary().to_string());
        let file = storage.create(&temporary)?;
        let mut writer = Self {
            storage,
            file: Some(file),
            temporary,
            path: dir.join(name.to_string()),
            name,
            buffer: Vec::new(),
            position: 0,
            blocks: Vec::new(),
            body: Crc32::new(),
            sections: Vec::new(),
            finished: false,
        };
        writer.put(&FileHeader::new(kind.file_kind(), kind.version(), database, number).encode())?;
        Ok(writer)
    }

    /// The final path of the file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Begins the next section; what is appended from now on belongs to it.
    pub fn begin(&mut self, kind: SectionKind, owner: u32) -> Result<()> {
        self.pad()?;
        self.sections.push(Section { kind, owner, offset: self.position, len: 0 });
        Ok(())
    }

    /// Appends to the section begun last.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(section) = self.sections.last_mut() else {
            return Err(invalid(&self.path, "bytes outside of any section"));
        };
        section.len += bytes.len() as u64;
        self.put(bytes)
    }

    /// Writes a whole section.
    pub fn section(&mut self, kind: SectionKind, owner: u32, bytes: &[u8]) -> Result<()> {
        self.begin(kind, owner)?;
        self.append(bytes)
    }

    /// How many bytes the section begun last has so far.
    pub fn section_len(&self) -> u64 {
        self.sections.last().map_or(0, |section| section.len)
    }

    /// Writes the tables and the footer. **Nothing is synced or named yet**: pass the result to
    /// [`commit_files`].
    pub fn finish(mut self) -> Result<PendingFile<'a>> {
        self.check_unique()?;
        self.pad()?;
        let rest = std::mem::take(&mut self.buffer);
        self.emit(&rest)?;
        let section_offset = self.position;
        let (mut tables, mut blocks) = (Encoder::new(), Encoder::new());
        self.sections.iter().for_each(|section| section.encode(&mut tables));
        for crc in &self.blocks {
            blocks.u32(*crc);
        }
        let (section_len, section_crc) = (tables.len() as u64, crc32(tables.as_slice()));
        tables.raw(blocks.as_slice());
        self.body.update(tables.as_slice());
        let footer = Footer {
            section_offset,
            section_len,
            block_offset: section_offset + section_len,
            block_len: blocks.len() as u64,
            section_crc,
            block_crc: crc32(blocks.as_slice()),
            body_crc: self.body.value(),
            block_size: BLOCK_LEN as u32,
        };
        let footer_bytes = footer.encode();
        tables.raw(&footer_bytes);
        self.write(tables.as_slice())?;
        let len = section_offset + tables.len() as u64;
        let crc = extend_crc(footer.body_crc, &footer_bytes);
        let meta = FileMeta { kind: self.name.kind, number: self.name.number, len, crc };
        let Some(file) = self.file.take() else { return Err(self.given_up()) };
        self.finished = true;
        let (current, path) = (Some(self.temporary.clone()), self.path.clone());
        Ok(PendingFile { storage: self.storage, file, current, path, meta })
    }

    fn check_unique(&self) -> Result<()> {
        let mut keys: Vec<_> = self.sections.iter().map(|section| (section.kind, section.owner)).collect();
        keys.sort_unstable();
        match keys.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(invalid(&self.path, format!("section {:?} was written twice", pair[0]))),
            None => Ok(()),
        }
    }

    /// Fills up to the next section's start with zeros.
    fn pad(&mut self) -> Result<()> {
        const ZEROS: [u8; SECTION_ALIGNMENT as usize] = [0; SECTION_ALIGNMENT as usize];
        let padding = self.position.next_multiple_of(SECTION_ALIGNMENT) - self.position;
        self.put(&ZEROS[..padding as usize])
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.position += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.buffer.is_empty() && bytes.len() >= BUFFER_LEN {
                let (whole, rest) = bytes.split_at(BUFFER_LEN);
                self.emit(whole)?;
                bytes = rest;
                continue;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(BUFFER_LEN - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = rest;
            if self.buffer.len() == BUFFER_LEN {
                let mut buffer = std::mem::take(&mut self.buffer);
                self.emit(&buffer)?;
                buffer.clear();
                self.buffer = buffer;
            }
        }
        Ok(())
    }

    /// Checksums and appends data that begins at a multiple of the block length.
    fn emit(&mut self, bytes: &[u8]) -> Result<()> {
        self.blocks.extend(bytes.chunks(BLOCK_LEN).map(crc32));
        // Once more, from the cache: cheaper than putting the checksum together from those of small blocks.
        self.body.update(bytes);
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.on_file(|file| {
            let before = file.position() / WRITEBACK_EVERY;
            file.append(bytes)?;
            if file.position() / WRITEBACK_EVERY > before {
                file.start_writeback();
            }
            Ok(())
        })
    }

    fn given_up(&self) -> StorageError {
        let cause = std::io::Error::other("an earlier write to this file failed");
        StorageError::io("append to", &self.temporary, cause)
    }

    /// Does something to the file, which is given up at the first failure.
    fn on_file(&mut self, act: impl FnOnce(&mut dyn WriteFile) -> Result<()>) -> Result<()> {
        let Some(mut file) = self.file.take() else { return Err(self.given_up()) };
        act(&mut *file)?;
        self.file = Some(file);
        Ok(())
    }
}

impl Drop for SealedWriter<'_> {
    fn drop(&mut self) {
        if !self.finished {
            self.file = None;
            // Only to give the space back early: nothing refers to a temporary file.
            let _ignored = self.storage.remove(&self.temporary);
        }
    }
}
