//! A real file system of its own for a run: on a loop device, or in memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::tools::{call, quiet};
use super::{Failure, Result};
use crate::args::Filesystem;

/// How a power cut treats what the file system's journal holds only in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It is lost, like everything else that was not synced: what a power cut does.
    Journal,
    /// It is written first: what a power cut does a moment after the journal's own commit.
    AfterJournal,
}

/// A file system in an image file on a loop device.
pub(crate) struct Disk {
    dir: TempDir,
    image: PathBuf,
    pub(crate) point: PathBuf,
    in_memory: bool,
    mounted: bool,
}

impl Disk {
    /// Makes the file system and mounts it. With `keep`, the image is a file on disk that stays.
    pub(crate) fn make(filesystem: Filesystem, size_mb: u64, keep: bool) -> Result<Self> {
        let mut dir = scratch()?;
        dir.disable_cleanup(keep);
        let (home, point) = (dir.path().join("home"), dir.path().join("disk"));
        for new in [&home, &point] {
            std::fs::create_dir(new).map_err(|error| Failure::Broken(error.to_string()))?;
        }
        if !keep {
            mount_memory(&home, size_mb + 16)?;
        }
        let image = home.join("image");
        let mut disk = Self { dir, image, point, in_memory: !keep, mounted: false };
        let made = std::fs::File::create(&disk.image).and_then(|file| file.set_len(size_mb << 20));
        made.map_err(|error| Failure::Broken(format!("{}: {error}", disk.image.display())))?;
        call(&format!("mkfs.{}", filesystem.name()), [Path::new("-q"), &disk.image])?;
        let mounted = disk.mount();
        mounted.map_err(|failure| Failure::Skipped(format!("it can not be mounted here: {failure:?}")))?;
        Ok(disk)
    }

    /// Mounts it; after a cut, that is when the journal is recovered.
    pub(crate) fn mount(&mut self) -> Result<()> {
        call("mount", [Path::new("-o"), Path::new("loop"), &self.image, &self.point])?;
        self.mounted = true;
        Ok(())
    }

    /// Unmounts it. The process that was killed last may take a moment to let go.
    pub(crate) fn unmount(&mut self) -> Result<()> {
        unmount(&self.point)?;
        self.mounted = false;
        Ok(())
    }

    /// Cuts the power: the file system stops at once, and nothing that is not on the device gets there.
    pub(crate) fn cut(&self, cut: Cut) -> Result<()> {
        let shutdown = match cut {
            Cut::Journal => "shutdown",
            Cut::AfterJournal => "shutdown -f",
        };
        call("xfs_io", [Path::new("-x"), Path::new("-c"), Path::new(shutdown), &self.point]).map(drop)
    }

    pub(crate) fn image(&self) -> &Path {
        &self.image
    }
}

impl Drop for Disk {
    /// The namespace's end would do the same.
    fn drop(&mut self) {
        let mut left = Vec::new();
        if self.mounted {
            left.extend(unmount(&self.point).err());
        }
        if self.in_memory {
            left.extend(unmount(&self.dir.path().join("home")).err());
        }
        for failure in left {
            eprintln!("cleaning up: {failure:?}");
        }
    }
}

/// A small file system in memory.
pub(crate) struct Memory {
    dir: TempDir,
}

impl Memory {
    pub(crate) fn make(size_mb: u64) -> Result<Self> {
        let dir = scratch()?;
        mount_memory(dir.path(), size_mb)?;
        Ok(Self { dir })
    }

    pub(crate) fn point(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if let Err(failure) = unmount(self.dir.path()) {
            eprintln!("cleaning up: {failure:?}");
        }
    }
}

/// How many bytes are free at `path`.
pub(crate) fn free_bytes(path: &Path) -> Result<u64> {
    let said = call("stat", [Path::new("-f"), Path::new("-c"), Path::new("%a %S"), path])?;
    let numbers: Vec<u64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [blocks, size] => Ok(blocks * size),
        _ => Err(Failure::Broken(format!("stat said {said:?}"))),
    }
}

pub(crate) fn scratch() -> Result<TempDir> {
    let made = tempfile::Builder::new().prefix("plimsoll-torture-").tempdir();
    made.map_err(|error| Failure::Broken(error.to_string()))
}

fn mount_memory(point: &Path, size_mb: u64) -> Result<()> {
    let size = format!("size={size_mb}m");
    let args = ["-t", "tmpfs", "-o", &size, "plimsoll-torture"];
    call("mount", args.iter().map(Path::new).chain([point])).map(drop)
}

fn unmount(point: &Path) -> Result<()> {
    for _ in 0..100 {
        if quiet("umount", [point]) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    call("umount", [point]).map(drop)
}
