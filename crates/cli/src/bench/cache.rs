//! The page cache: dropping what it has of a database's files, and counting what is read from the disk after that. Linux
//! only.

use std::path::Path;

use crate::error::Result;

/// What this process has had to wait for so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Faults {
    /// Page faults that waited for the disk.
    pub major: u64,
    /// Page faults that did not.
    pub minor: u64,
    /// Bytes that were read from the disk, with those that the kernel read ahead.
    pub disk_bytes: u64,
}

/// Drops every page of the files in a directory, and in those in it, that nobody has mapped.
pub(super) fn drop_pages(dir: &Path) -> Result<()> {
    system::drop_pages(dir)
}

impl Faults {
    pub(super) fn now() -> Result<Self> {
        system::faults()
    }
}

/// How long it takes to read one page that is not in memory, from random places of the largest file in a directory:
/// nanoseconds of each of so many.
pub(super) fn page_reads(dir: &Path, pages: usize) -> Result<Vec<u64>> {
    system::page_reads(dir, pages)
}

#[cfg(target_os = "linux")]
mod system {
    use std::fs::{self, File};
    use std::io;
    use std::os::unix::fs::FileExt as _;
    use std::path::{Path, PathBuf};
    use std::time::Instant;

    use rustix::fs::{Advice, fadvise};

    use super::super::random::Random;
    use super::Faults;
    use crate::error::{CliError, Result};

    const PAGE: usize = 4096;
    const STAT: &str = "/proc/self/stat";
    const IO: &str = "/proc/self/io";

    pub(super) fn drop_pages(dir: &Path) -> Result<()> {
        files(dir)?.iter().try_for_each(|path| drop_pages_of(path, &open(path)?))
    }

    /// Pages that were written are dropped only once they are on the disk.
    fn drop_pages_of(path: &Path, file: &File) -> Result<()> {
        let dropped = file.sync_all().and_then(|()| Ok(fadvise(file, 0, None, Advice::DontNeed)?));
        dropped.map_err(|error| CliError::file(path, &error))
    }

    fn open(path: &Path) -> Result<File> {
        File::open(path).map_err(|error| CliError::file(path, &error))
    }

    fn files(dir: &Path) -> Result<Vec<PathBuf>> {
        let failed = |error: io::Error| CliError::file(dir, &error);
        let mut found = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.is_dir() {
                found.extend(files(&path)?);
            } else if path.is_file() {
                found.push(path);
            }
        }
        Ok(found)
    }

    pub(super) fn faults() -> Result<Faults> {
        let read = |path| fs::read_to_string(path).map_err(|error| CliError::file(Path::new(path), &error));
        let what = || CliError::failed("other", format!("{STAT} and {IO} are not as proc(5) has them"));
        parse(&read(STAT)?, &read(IO)?).ok_or_else(what)
    }

    /// The fields 10 and 12 of proc_pid_stat(5), of which the second one, a name in brackets, may have blanks and brackets in
    /// it; and `read_bytes` of proc_pid_io(5).
    pub(super) fn parse(stat: &str, io: &str) -> Option<Faults> {
        let mut after_name = stat.rsplit_once(')')?.1.split_whitespace().skip(7);
        let minor = after_name.next()?.parse().ok()?;
        let major = after_name.nth(1)?.parse().ok()?;
        let disk_bytes = io.lines().find_map(|line| line.strip_prefix("read_bytes: "))?.parse().ok()?;
        Some(Faults { major, minor, disk_bytes })
    }

    pub(super) fn page_reads(dir: &Path, pages: usize) -> Result<Vec<u64>> {
        let length = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
        let largest = files(dir)?.into_iter().max_by_key(length);
        let Some(path) = largest else {
            return Err(CliError::failed("empty", format!("{}: there are no files in it", dir.display())));
        };
        let failed = |error: io::Error| CliError::file(&path, &error);
        let file = open(&path)?;
        // Without this, the kernel reads many pages for one.
        fadvise(&file, 0, None, Advice::Random).map_err(|error| failed(error.into()))?;
        drop_pages_of(&path, &file)?;
        let mut random = Random::new(1);
        let all = length(&path) as usize / PAGE;
        let mut page = [0; PAGE];
        (0..pages.min(all))
            .map(|_| {
                let offset = random.below(all) * PAGE;
                let start = Instant::now();
                file.read_exact_at(&mut page, offset as u64).map_err(failed)?;
                Ok(start.elapsed().as_nanos() as u64)
            })
            .collect()
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::path::Path;

    use super::Faults;
    use crate::error::{CliError, Result};

    fn unsupported<T>() -> Result<T> {
        Err(CliError::failed("unsupported", "--cold is for Linux"))
    }

    pub(super) fn drop_pages(_dir: &Path) -> Result<()> {
        unsupported()
    }

    pub(super) fn faults() -> Result<Faults> {
        unsupported()
    }

    pub(super) fn page_reads(_dir: &Path, _pages: usize) -> Result<Vec<u64>> {
        unsupported()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_behind_any_name() {
        let faults = system::parse("7 (a) b (c) S 1 2 3 4 5 6 70 8 90 10 11", "rchar: 5\nread_bytes: 4096\n");
        let faults = faults.map(|faults| (faults.minor, faults.major, faults.disk_bytes));
        assert_eq!(faults, Some((70, 90, 4096)));
        let before = Faults::now().unwrap();
        let touched = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(Faults::now().unwrap().minor > before.minor + 10, "{} bytes were touched", touched.len());
    }

    #[test]
    fn pages_of_a_tree_are_dropped_and_read_again() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("inner")).unwrap();
        std::fs::write(dir.path().join("inner/file"), vec![7; 1 << 20]).unwrap();
        drop_pages(dir.path()).unwrap();
        assert_eq!(page_reads(dir.path(), 20).unwrap().len(), 20);
        assert!(drop_pages(&dir.path().join("none")).is_err());
    }
}
