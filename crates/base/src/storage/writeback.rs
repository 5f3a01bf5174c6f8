//! Having a file written to disk early.

#![cfg_attr(
    target_os = "linux",
    expect(unsafe_code, reason = "the call is in no safe library; this module is its only home")
)]

use std::fs::File;

/// Asks the kernel to begin writing the bytes from `start` to `end`, without waiting for it. Where there is no
/// such call, nothing happens.
pub(super) fn start(file: &File, start: u64, end: u64) {
    #[cfg(target_os = "linux")]
    if let (Ok(offset), Ok(length)) = (i64::try_from(start), i64::try_from(end.saturating_sub(start)))
        && length > 0
    {
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(file);
        // SAFETY: the descriptor is open as long as `file` is borrowed, and no memory is passed.
        let _hint = unsafe { libc::sync_file_range(descriptor, offset, length, libc::SYNC_FILE_RANGE_WRITE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _unused = (file, start, end);
}
