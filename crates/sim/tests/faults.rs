//! Calls that fail on request, full disks, damage at rest, and the rules that are watched.

use std::io::ErrorKind;
use std::path::Path;

use plimsoll_base::Result;
use plimsoll_base::storage::{Storage, WriteFile, publish};
use plimsoll_sim::CrashPolicy::{KeepAll, LoseAll};
use plimsoll_sim::{Failure, OperationKind, SimStorage, Times};

fn path(name: &str) -> &Path {
    Path::new(name)
}

/// A disk with a file `/a` of durable name.
fn disk() -> Result<(SimStorage, Box<dyn WriteFile>)> {
    let disk = SimStorage::new();
    let file = disk.create(path("/a"))?;
    disk.sync_dir(path("/"))?;
    Ok((disk, file))
}

#[test]
fn a_failed_sync_drops_the_dirty_pages_for_good() {
    let (disk, mut file) = disk().unwrap();
    file.append(b"1").unwrap();
    file.sync().unwrap();
    file.append(b"2").unwrap();
    disk.fail_next(OperationKind::Sync, Failure::errno(5), 1);
    assert!(file.sync().unwrap_err().to_string().starts_with("sync /a: "));
    assert_eq!(disk.bytes("/a").unwrap(), b"12");
    file.sync().unwrap();
    assert_eq!(disk.bytes("/a").unwrap(), b"12");
    assert_eq!(disk.after_crash(LoseAll).bytes("/a").unwrap(), b"1");
    file.append(b"3").unwrap();
    file.sync().unwrap();
    assert_eq!(disk.after_crash(LoseAll).bytes("/a").unwrap(), b"1\x003");
    assert_eq!(disk.after_crash(KeepAll).bytes("/a").unwrap(), b"123");
    assert_eq!(disk.after_kill().after_crash(LoseAll).bytes("/a").unwrap(), b"1\x003");
    assert_eq!(disk.violations().len(), 3, "{:?}", disk.violations());
}

#[test]
fn an_operation_fails_once_or_for_ever_or_with_all_that_follow() {
    for (times, expected) in [
        (Times::Once, [false, true, true, true]),
        (Times::ForEver, [false, true, false, true]),
        (Times::AllForEver, [false, false, false, false]),
    ] {
        let (disk, mut file) = disk().unwrap();
        file.append(b"x").unwrap();
        disk.fail_operation(disk.operations(), ErrorKind::ReadOnlyFilesystem, times);
        let results = [file.sync(), disk.sync_dir(path("/")), file.sync(), disk.create_dir(path("/d"))];
        assert_eq!(results.map(|result| result.is_ok()), expected, "{times:?}");
        assert_eq!(disk.bytes("/a").unwrap(), b"x");
        disk.clear_faults();
        file.sync().unwrap();
    }
}

#[test]
fn calls_that_only_read_fail_by_kind() {
    let (disk, mut file) = disk().unwrap();
    file.append(b"x").unwrap();
    let read = disk.open(path("/a")).unwrap();
    let number = disk.operations();
    for kind in [OperationKind::Open, OperationKind::Read, OperationKind::List, OperationKind::FreeSpace] {
        disk.fail_next(kind, ErrorKind::PermissionDenied, 2);
    }
    for expected in [false, false, true] {
        assert_eq!(disk.open(path("/a")).is_ok(), expected);
        assert_eq!(read.read_exact_at(0, &mut [0]).is_ok(), expected);
        assert_eq!(disk.list(path("/")).is_ok(), expected);
        assert_eq!(disk.free_space(path("/")).is_ok(), expected);
    }
    assert_eq!(disk.operations(), number);
}

#[test]
fn every_kind_of_change_can_fail_without_effect_or_with_all_of_it() {
    for kind in OperationKind::MUTATING {
        for done in [false, true] {
            let (disk, mut file) = disk().unwrap();
            let failure = Failure::from(ErrorKind::TimedOut);
            disk.fail_next(kind, if done { failure.although_done() } else { failure }, 1);
            let (result, effect) = match kind {
                OperationKind::CreateDir => (disk.create_dir(path("/d")), disk.list(path("/d")).is_ok()),
                OperationKind::Create => (disk.create(path("/b")).map(drop), disk.bytes("/b").is_some()),
                OperationKind::Append => (file.append(b"x"), disk.bytes("/a").unwrap() == b"x"),
                OperationKind::Preallocate => (file.preallocate(9), disk.bytes("/a").unwrap().len() == 9),
                OperationKind::Rename => {
                    (disk.rename_noreplace(path("/a"), path("/b")), disk.bytes("/b").is_some())
                }
                OperationKind::Remove => (disk.remove(path("/a")), disk.bytes("/a").is_none()),
                OperationKind::Lock => (disk.lock(path("/L")).map(drop), disk.bytes("/L").is_some()),
                OperationKind::Sync => {
                    file.append(b"x").unwrap();
                    (file.sync(), disk.after_crash(LoseAll).bytes("/a").unwrap() == b"x")
                }
                OperationKind::SyncDir => {
                    disk.create(path("/b")).unwrap();
                    (disk.sync_dir(path("/")), disk.after_crash(LoseAll).bytes("/b").is_some())
                }
                other => panic!("{other:?} changes nothing"),
            };
            assert_eq!(result.unwrap_err().io_kind(), Some(ErrorKind::TimedOut), "{kind:?}");
            assert_eq!(effect, done, "{kind:?}");
            assert!(disk.log().last().unwrap().error.is_some());
            drop(disk.lock(path("/L")).unwrap());
        }
    }
}

#[test]
fn a_short_write_leaves_a_part_and_the_position_behind() {
    let (disk, mut file) = disk().unwrap();
    file.append(b"12").unwrap();
    disk.fail_operation(disk.operations(), Failure::errno(5).after_bytes(1), Times::Once);
    assert!(file.append(b"345").is_err());
    assert_eq!(disk.bytes("/a").unwrap(), b"123");
    assert_eq!(file.position(), 2);
    assert!(disk.violations().is_empty());
    file.append(b"6").unwrap();
    assert_eq!(disk.bytes("/a").unwrap(), b"1236");
    assert_eq!(disk.violations(), ["operation #4: /a written to after a failed append"]);
}

#[test]
fn a_full_disk_refuses_new_bytes_and_names_until_space_comes_back() {
    let (disk, mut file) = disk().unwrap();
    disk.set_capacity(10);
    file.append(b"1234").unwrap();
    assert_eq!(disk.free_space(path("/")).unwrap(), 6);
    assert!(file.preallocate(11).unwrap_err().is_storage_full());
    file.preallocate(6).unwrap();
    assert_eq!(disk.free_space(path("/")).unwrap(), 4);
    let mut other = disk.create(path("/b")).unwrap();
    assert!(other.append(b"12345").unwrap_err().is_storage_full());
    assert_eq!(disk.bytes("/b").unwrap(), b"1234", "what fits is written");
    assert!(disk.create(path("/c")).unwrap_err().is_storage_full());
    assert!(disk.create_dir(path("/d")).unwrap_err().is_storage_full());
    assert!(disk.lock(path("/LOCK")).unwrap_err().is_storage_full());
    file.append(b"56").unwrap();
    other.sync().unwrap();
    disk.sync_dir(path("/")).unwrap();
    disk.remove(path("/b")).unwrap();
    assert_eq!(disk.free_space(path("/")).unwrap(), 0, "the file is still open");
    drop(other);
    assert_eq!(disk.free_space(path("/")).unwrap(), 4);
    disk.create(path("/c")).unwrap();
    assert_eq!(disk.after_crash(LoseAll).free_space(path("/")).unwrap(), 10 - 4, "the removal is undone");
}

#[test]
fn the_log_tells_each_call_with_its_outcome() {
    let (disk, mut file) = disk().unwrap();
    file.preallocate(100).unwrap();
    file.append(b"12").unwrap();
    file.append(b"345").unwrap();
    file.sync().unwrap();
    disk.rename_noreplace(path("/a"), path("/b")).unwrap();
    assert!(disk.remove(path("/a")).is_err());
    let log: Vec<_> = disk.log().iter().map(ToString::to_string).collect();
    let expected = [
        "#0 create /a",
        "#1 sync directory /",
        "#2 preallocate /a: 100 bytes",
        "#3 append to /a at 0: 2 bytes",
        "#4 append to /a at 2: 3 bytes",
        "#5 sync /a",
        "#6 rename /a to /b",
        "#7 remove /a failed: entity not found",
    ];
    assert_eq!(log, expected);
    assert!(disk.log()[2..6].iter().all(|operation| operation.inode == Some(1)));
}

#[test]
fn publishing_with_unsynced_bytes_is_a_violation() {
    let (disk, mut file) = disk().unwrap();
    disk.rename_noreplace(path("/a"), path("/b.tmp")).unwrap();
    file.append(b"x").unwrap();
    disk.rename_noreplace(path("/b.tmp"), path("/c.tmp")).unwrap();
    assert!(disk.violations().is_empty());
    disk.rename_noreplace(path("/c.tmp"), path("/c")).unwrap();
    assert_eq!(disk.violations(), ["operation #5: /c published with unsynced bytes"]);
}

#[test]
fn writing_to_a_mapped_file_or_mapping_unsynced_bytes_is_a_violation() {
    let (disk, mut file) = disk().unwrap();
    file.append(b"x").unwrap();
    let read = disk.open(path("/a")).unwrap();
    assert!(read.map().unwrap().is_none());
    file.append(b"y").unwrap();
    let violations = disk.violations();
    assert_eq!(violations.len(), 2, "{violations:?}");
    assert!(violations[0].ends_with("mapped with unsynced bytes"));
    assert!(violations[1].ends_with("written to after it was mapped"));
}

#[test]
fn what_the_engine_does_all_day_is_no_violation() {
    let (disk, mut file) = disk().unwrap();
    file.append(b"x").unwrap();
    let read = disk.open(path("/a")).unwrap();
    file.sync().unwrap();
    file.append(b"y").unwrap();
    publish(&disk, path("/s.tmp"), path("/s"), b"sealed").unwrap();
    disk.open(path("/s")).unwrap().map().unwrap();
    disk.remove(path("/a")).unwrap();
    read.read_exact_at(0, &mut [0; 2]).unwrap();
    assert_eq!(disk.violations(), Vec::<String>::new());
}

#[test]
fn files_can_be_put_damaged_and_taken_away_at_rest() {
    let disk = SimStorage::new();
    disk.put("/db/x/a", [0b1000_0001, 2, 3]).unwrap();
    disk.put("/db/b", b"b").unwrap();
    assert_eq!(disk.paths(), [path("/db/b"), path("/db/x/a")]);
    disk.flip_bit("/db/x/a", 7).unwrap();
    disk.corrupt("/db/x/a", 2, |byte| byte + 6).unwrap();
    assert_eq!(disk.bytes("db/x/../x/a").unwrap(), [1, 2, 9]);
    assert!(disk.flip_bit("/db/x/a", 24).is_err());
    disk.truncate("/db/x/a", 1).unwrap();
    disk.truncate("/db/x/a", 3).unwrap();
    disk.delete("/db/b").unwrap();
    assert!(disk.delete("/db/b").unwrap_err().is_not_found());
    assert!(disk.corrupt("/db/b", 0, |byte| byte).is_err());
    assert!(disk.put("/db/x/a/b", b"").is_err());
    assert!(disk.put("/db/x", b"").is_err());
    let after = disk.after_crash(LoseAll);
    assert_eq!(after.paths(), [path("/db/x/a")]);
    assert_eq!(after.bytes("/db/x/a").unwrap(), [1, 0, 0]);
    disk.put("/db/x/a", b"new").unwrap();
    assert_eq!(disk.after_crash(LoseAll).bytes("/db/x/a").unwrap(), b"new");
    assert_eq!((disk.operations(), after.operations()), (0, 0));
}
