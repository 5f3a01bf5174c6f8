//! The operating system's file system as a [`Storage`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs2::FileExt;

use super::writeback;
use super::{DirEntry, Lock, Map, ReadFile, Storage, SyncFile, WriteFile};
use crate::{Result, StorageError};

/// The operating system's file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct OsStorage;

impl Storage for OsStorage {
    fn create_dir(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).map_err(|error| StorageError::io("create directory", dir, error))
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>> {
        let failed = |error| StorageError::io("list", dir, error);
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed by its owner between the two calls: it is not there.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(failed(error)),
            };
            let is_dir = metadata.is_dir();
            let len = if is_dir { 0 } else { metadata.len() };
            entries.push(DirEntry { name: entry.file_name().to_string_lossy().into_owned(), len, is_dir });
        }
        entries.sort();
        Ok(entries)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|error| StorageError::io("create", path, error))?;
        Ok(Box::new(OsWriteFile { file, path: path.to_path_buf(), position: 0, written_back: 0 }))
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>> {
        if is_other(path) {
            return Err(StorageError::corrupted(path, 0, NO_FILE));
        }
        let open = || {
            let file = File::open(path)?;
            let len = file.metadata()?.len();
            Ok(OsReadFile { file, path: path.to_path_buf(), len })
        };
        Ok(Arc::new(open().map_err(|error| StorageError::io("open", path, error))?))
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> Result<()> {
        rename_noreplace(from, to).map_err(|error| StorageError::io("rename to", to, error))
    }

    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).map_err(|error| StorageError::io("remove", path, error))
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        // Windows has no handle to sync a directory by; NTFS journals its names.
        #[cfg(unix)]
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| StorageError::io("sync directory", dir, error))?;
        let _ = dir;
        Ok(())
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>> {
        let failed = |error| StorageError::io("lock", path, error);
        if is_other(path) {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, NO_FILE)));
        }
        let mut file = open_lock_file(path).map_err(failed)?;
        match file.try_lock_exclusive() {
            Ok(()) => {}
            Err(error) if error.kind() == fs2::lock_contended_error().kind() => {
                let mut holder = String::new();
                file.take(512).read_to_string(&mut holder).map_err(failed)?;
                let holder = match holder.trim() {
                    "" => "another process".to_owned(),
                    holder => holder.to_owned(),
                };
                return Err(StorageError::Locked { path: path.to_path_buf(), holder });
            }
            Err(error) => return Err(failed(error)),
        }
        // Who holds it, for the error above. The kernel keeps the lock; these bytes decide nothing. A file of
        // that name that is somebody else's is left as it is.
        let mut note_holder = || {
            let mut start = Vec::new();
            (&file).take(HOLDER.len() as u64).read_to_end(&mut start)?;
            if !start.is_empty() && start != HOLDER.as_bytes() {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "this is not a lock file of Plimsoll; if no process has the database open, remove it",
                ));
            }
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            writeln!(file, "{HOLDER}{} on host {}", std::process::id(), host_name())
        };
        note_holder().map_err(failed)?;
        Ok(Box::new(OsLock { _file: file }))
    }

    fn free_space(&self, dir: &Path) -> Result<u64> {
        fs2::available_space(dir).map_err(|error| StorageError::io("free space of", dir, error))
    }
}

/// How the holder's note begins.
const HOLDER: &str = "process ";

/// What is said of what can not be a file of a database.
const NO_FILE: &str = "this is not a regular file";

/// Whether there is something else than a regular file: opening a pipe would wait for whoever writes to it.
fn is_other(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| !found.is_file())
}

/// Opens or creates a lock file, which is never somewhere else by way of a link.
fn open_lock_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        rustix::fs::OFlags::NOFOLLOW.bits().cast_signed(),
    );
    options.open(path)
}

#[cfg(target_os = "linux")]
fn preallocate(file: &File, bytes: u64) -> io::Result<()> {
    // Not fs2's, whose `posix_fallocate` returns the error that it then looks for in `errno`.
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // A file system without preallocation: the length alone is reserved.
        Err(Errno::OPNOTSUPP) => file.set_len(bytes),
        result => Ok(result?),
    }
}

#[cfg(not(target_os = "linux"))]
fn preallocate(file: &File, bytes: u64) -> io::Result<()> {
    file.allocate(bytes)
}

#[cfg(target_os = "linux")]
fn rename_noreplace(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => link_and_unlink(from, to),
        result => Ok(result?),
    }
}

#[cfg(not(target_os = "linux"))]
fn rename_noreplace(from: &Path, to: &Path) -> io::Result<()> {
    link_and_unlink(from, to)
}

/// `link` fails when the new name exists, on every file system that has hard links.
fn link_and_unlink(from: &Path, to: &Path) -> io::Result<()> {
    fs::hard_link(from, to)?;
    fs::remove_file(from)
}

#[cfg(unix)]
fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host_name() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "unknown".to_owned())
}

#[derive(Debug)]
struct OsLock {
    _file: File,
}

impl Lock for OsLock {}

#[derive(Debug)]
struct OsWriteFile {
    file: File,
    path: PathBuf,
    position: u64,
    /// How far writing back was asked for.
    written_back: u64,
}

impl WriteFile for OsWriteFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| StorageError::io("append to", &self.path, error))?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    fn preallocate(&mut self, bytes: u64) -> Result<()> {
        preallocate(&self.file, bytes).map_err(|error| StorageError::io("preallocate", &self.path, error))
    }

    fn start_writeback(&mut self) {
        writeback::start(&self.file, self.written_back, self.position);
        self.written_back = self.position;
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn sync(&mut self) -> Result<()> {
        sync(&self.file, &self.path)
    }

    fn syncer(&self) -> Result<Box<dyn SyncFile>> {
        let clone = self.file.try_clone();
        let file = clone.map_err(|error| StorageError::io("open a second handle of", &self.path, error))?;
        Ok(Box::new(OsSyncFile { file, path: self.path.clone() }))
    }
}

#[derive(Debug)]
struct OsSyncFile {
    file: File,
    path: PathBuf,
}

impl SyncFile for OsSyncFile {
    fn sync(&self) -> Result<()> {
        sync(&self.file, &self.path)
    }
}

fn sync(file: &File, path: &Path) -> Result<()> {
    file.sync_data().map_err(|error| StorageError::io("sync", path, error))
}

#[derive(Debug)]
struct OsReadFile {
    file: File,
    path: PathBuf,
    len: u64,
}

impl ReadFile for OsReadFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        read_exact_at(&self.file, offset, buffer).map_err(|error| StorageError::io("read", &self.path, error))
    }

    fn map(&self) -> Result<Option<Map>> {
        Map::new(&self.file).map(Some).map_err(|error| StorageError::io("map", &self.path, error))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, buffer, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut offset: u64, mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, buffer, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    #[cfg_attr(miri, ignore = "real files: locks, mappings, renameat2")]
    fn what_is_no_file_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        for path in [&pipe, dir.path()] {
            assert!(matches!(OsStorage.open(path), Err(StorageError::Corrupted { .. })));
            assert!(OsStorage.lock(path).is_err());
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "real files: locks, mappings, renameat2")]
    fn a_file_is_created_once_appended_synced_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut file = OsStorage.create(&path).unwrap();
        file.preallocate(4096).unwrap();
        file.append(b"hello ").unwrap();
        file.append(b"world").unwrap();
        file.sync().unwrap();
        file.syncer().unwrap().sync().unwrap();
        assert_eq!(file.position(), 11);
        assert!(OsStorage.create(&path).is_err());
        let read = OsStorage.open(&path).unwrap();
        assert_eq!(read.len(), 4096);
        let mut bytes = [0; 12];
        read.read_exact_at(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"hello world\0");
        assert_eq!(&read.map().unwrap().unwrap()[..11], b"hello world");
        assert!(read.read_exact_at(4090, &mut bytes).is_err());
    }

    #[test]
    #[cfg_attr(miri, ignore = "real files: locks, mappings, renameat2")]
    fn rename_never_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        OsStorage.create(&a).unwrap().append(b"a").unwrap();
        OsStorage.create(&b).unwrap().append(b"b").unwrap();
        let error = OsStorage.rename_noreplace(&a, &b).unwrap_err();
        assert_eq!(error.io_kind(), Some(io::ErrorKind::AlreadyExists));
        assert_eq!(fs::read(&b).unwrap(), b"b");
        assert!(link_and_unlink(&a, &b).is_err());
        OsStorage.rename_noreplace(&a, &dir.path().join("c")).unwrap();
        link_and_unlink(&b, &dir.path().join("d")).unwrap();
        let names: Vec<_> = OsStorage.list(dir.path()).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["c", "d"]);
    }

    #[test]
    #[cfg_attr(miri, ignore = "real files: locks, mappings, renameat2")]
    fn a_second_lock_names_the_holder_and_the_first_can_be_released() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let first = OsStorage.lock(&path).unwrap();
        match OsStorage.lock(&path).unwrap_err() {
            StorageError::Locked { holder, .. } => {
                assert!(holder.contains(&format!("process {}", std::process::id())), "{holder}");
            }
            other => panic!("{other}"),
        }
        drop(first);
        OsStorage.lock(&path).unwrap();
    }
}
