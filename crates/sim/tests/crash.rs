//! What a power cut may take, and what it may not.

use std::collections::BTreeSet;
use std::path::Path;

use plimsoll_base::storage::{Storage, Syncs, WriteFile, publish, publish_beside};
use plimsoll_base::{Result, StorageError};
use plimsoll_sim::CrashPolicy::{KeepAll, LoseAll, Random};
use plimsoll_sim::{DirectoryModel, SECTOR, SimStorage};
use proptest::prelude::*;

fn path(name: &str) -> &Path {
    Path::new(name)
}

/// A disk with a durable, empty directory `/db`.
fn disk() -> Result<SimStorage> {
    let disk = SimStorage::new();
    disk.put_dir("/db")?;
    Ok(disk)
}

/// A new file with a durable name.
fn create(disk: &SimStorage, name: &str) -> Result<Box<dyn WriteFile>> {
    let file = disk.create(path(name))?;
    disk.sync_dir(path("/db"))?;
    Ok(file)
}

/// The outcomes of many seeds, as sorted lists of (path, bytes).
fn outcomes(disk: &SimStorage, seeds: u64) -> BTreeSet<Vec<(String, Vec<u8>)>> {
    (0..seeds).map(|seed| contents(&disk.after_crash(Random(seed)))).collect()
}

fn contents(disk: &SimStorage) -> Vec<(String, Vec<u8>)> {
    let file = |path: std::path::PathBuf| {
        let bytes = disk.bytes(&path).unwrap_or_default();
        (path.display().to_string(), bytes)
    };
    disk.paths().into_iter().map(file).collect()
}

/// The sets of names that many seeds leave.
fn names(disk: &SimStorage, seeds: u64) -> BTreeSet<String> {
    let names = |outcome: Vec<(String, Vec<u8>)>| {
        let names: Vec<_> = outcome.into_iter().map(|(name, _)| name.replace("/db/", "")).collect();
        names.join(" ")
    };
    outcomes(disk, seeds).into_iter().map(names).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn unsynced_bytes_are_lost_and_synced_ones_are_not() {
    let disk = disk().unwrap();
    let mut file = create(&disk, "/db/a").unwrap();
    file.append(b"synced").unwrap();
    file.sync().unwrap();
    file.append(b" unsynced").unwrap();
    assert_eq!(disk.after_crash(LoseAll).bytes("/db/a").unwrap(), b"synced");
    assert_eq!(disk.after_crash(KeepAll).bytes("/db/a").unwrap(), b"synced unsynced");
    assert_eq!(disk.bytes("/db/a").unwrap(), b"synced unsynced");
    for (name, bytes) in outcomes(&disk, 200).into_iter().flatten() {
        assert_eq!(name, "/db/a");
        assert!(bytes.starts_with(b"synced"), "{bytes:?}");
    }
}

#[test]
fn an_unsynced_append_is_torn_at_sectors_only() {
    let disk = disk().unwrap();
    let mut file = create(&disk, "/db/a").unwrap();
    file.append(&[1; 100]).unwrap();
    file.sync().unwrap();
    file.append(&[2; 2000]).unwrap();
    let mut torn = BTreeSet::new();
    for outcome in outcomes(&disk, 2000) {
        let bytes = &outcome[0].1;
        assert_eq!(bytes[..100], [1; 100]);
        for sector in bytes.chunks(SECTOR as usize) {
            let tail: BTreeSet<u8> = sector.iter().copied().filter(|byte| *byte != 1).collect();
            assert!(tail.len() <= 1, "a sector was torn: {sector:?}");
        }
        torn.insert(bytes.clone());
    }
    // 5 sectors: every subset, with and without the length; all that differ must have been seen.
    assert!(torn.len() > 32, "{}", torn.len());
    assert!(torn.contains(&vec![1; 100]), "nothing of it");
    let sized = [vec![1; 100], vec![0; 2000]].concat();
    assert!(torn.contains(&sized), "length without data");
}

#[test]
fn a_later_unsynced_append_may_survive_an_earlier_one() {
    let disk = disk().unwrap();
    let mut file = create(&disk, "/db/a").unwrap();
    file.append(b"one").unwrap();
    file.append(b"two").unwrap();
    let seen: BTreeSet<_> = outcomes(&disk, 500).into_iter().flatten().map(|(_, bytes)| bytes).collect();
    let expected: [&[u8]; 6] = [b"", b"one", b"\0\0\0", b"onetwo", b"\0\0\0two", b"one\0\0\0"];
    for expected in expected {
        assert!(seen.contains(expected), "{expected:?} is not in {seen:?}");
    }
}

#[test]
fn preallocated_length_may_be_lost_until_it_is_synced() {
    let disk = disk().unwrap();
    let mut file = create(&disk, "/db/a").unwrap();
    file.preallocate(4096).unwrap();
    assert_eq!(disk.bytes("/db/a").unwrap(), [0; 4096]);
    let lengths = |disk: &SimStorage| -> BTreeSet<usize> {
        outcomes(disk, 100).into_iter().flatten().map(|(_, bytes)| bytes.len()).collect()
    };
    assert_eq!(lengths(&disk), BTreeSet::from([0, 4096]));
    file.sync().unwrap();
    file.append(b"x").unwrap();
    assert_eq!(lengths(&disk), BTreeSet::from([4096]));
}

#[test]
fn a_name_without_a_directory_sync_may_be_lost_even_if_its_bytes_are_synced() {
    let disk = disk().unwrap();
    let mut file = disk.create(path("/db/a")).unwrap();
    file.append(b"x").unwrap();
    file.sync().unwrap();
    assert_eq!(disk.after_crash(LoseAll).paths(), Vec::<&Path>::new());
    assert_eq!(names(&disk, 50), set(&["", "a"]));
    disk.sync_dir(path("/db")).unwrap();
    assert_eq!(disk.after_crash(LoseAll).bytes("/db/a").unwrap(), b"x");
    assert_eq!(names(&disk, 50), set(&["a"]));
}

#[test]
fn a_rename_or_removal_without_a_directory_sync_may_be_undone() {
    for model in [DirectoryModel::Strict, DirectoryModel::Journalled] {
        let disk = disk().unwrap();
        disk.set_model(model);
        disk.put("/db/a.tmp", b"a").unwrap();
        disk.put("/db/b", b"b").unwrap();
        disk.rename_noreplace(path("/db/a.tmp"), path("/db/a")).unwrap();
        assert_eq!(disk.after_crash(LoseAll).bytes("/db/a.tmp").unwrap(), b"a");
        assert_eq!(disk.after_crash(LoseAll).bytes("/db/a"), None);
        assert_eq!(disk.after_crash(KeepAll).bytes("/db/a").unwrap(), b"a");
        assert_eq!(names(&disk, 50), set(&["a b", "a.tmp b"]));
        disk.sync_dir(path("/db")).unwrap();
        disk.remove(path("/db/b")).unwrap();
        assert_eq!(names(&disk, 50), set(&["a", "a b"]));
    }
}

#[test]
fn a_published_file_is_there_whole_whatever_the_crash() {
    let disk = disk().unwrap();
    publish(&disk, path("/db/a.tmp"), path("/db/a"), &[7; 3000]).unwrap();
    let only = vec![("/db/a".to_owned(), vec![7; 3000])];
    assert_eq!(outcomes(&disk, 100), BTreeSet::from([only]));
    assert_eq!(disk.violations(), Vec::<String>::new());
}

#[test]
fn a_published_file_has_its_name_only_when_what_goes_beside_it_is_durable() {
    for syncs in [Syncs::InOrder, Syncs::Together] {
        let disk = disk().unwrap();
        let files = |disk: &SimStorage| disk.paths().iter().map(|path| path.display().to_string()).collect();
        let beside = || {
            let mut data = disk.create(path("/db/data"))?;
            data.append(b"data")?;
            let seen: BTreeSet<String> = files(&disk);
            assert!(!seen.contains("/db/a"), "{seen:?}");
            data.sync()
        };
        publish_beside(&disk, path("/db/a.tmp"), path("/db/a"), &[7; 3000], syncs, beside).unwrap();
        let seen: BTreeSet<String> = files(&disk.after_crash(LoseAll));
        assert_eq!(seen, set(&["/db/a", "/db/data"]));
        let failing = || Err(StorageError::corrupted(path("/db/data"), 0, "not this time"));
        publish_beside(&disk, path("/db/b.tmp"), path("/db/b"), &[7], syncs, failing).unwrap_err();
        let seen: BTreeSet<String> = files(&disk);
        assert_eq!(seen, set(&["/db/a", "/db/b.tmp", "/db/data"]));
    }
}

#[test]
fn a_durable_name_may_have_lost_its_bytes() {
    let disk = disk().unwrap();
    disk.create(path("/db/a.tmp")).unwrap().append(b"abc").unwrap();
    disk.rename_noreplace(path("/db/a.tmp"), path("/db/a")).unwrap();
    disk.sync_dir(path("/db")).unwrap();
    assert_eq!(contents(&disk.after_crash(LoseAll)), [("/db/a".to_owned(), Vec::new())]);
    let seen: BTreeSet<_> = outcomes(&disk, 100).into_iter().flatten().map(|(_, bytes)| bytes).collect();
    assert_eq!(seen, BTreeSet::from([Vec::new(), b"abc".to_vec(), vec![0; 3]]));
}

#[test]
fn journalled_names_survive_as_a_prefix_and_strict_ones_as_any_subset() {
    let disk = disk().unwrap();
    for name in ["/db/1", "/db/2", "/db/3"] {
        disk.create(path(name)).unwrap();
    }
    disk.set_model(DirectoryModel::Journalled);
    assert_eq!(names(&disk, 200), set(&["", "1", "1 2", "1 2 3"]));
    disk.set_model(DirectoryModel::Strict);
    assert_eq!(names(&disk, 500), set(&["", "1", "2", "3", "1 2", "1 3", "2 3", "1 2 3"]));
}

#[test]
fn syncing_a_directory_settles_what_came_before_only_in_a_journal() {
    let disk = disk().unwrap();
    disk.create_dir(path("/db/x")).unwrap();
    disk.sync_dir(path("/db")).unwrap();
    disk.create(path("/db/1")).unwrap();
    disk.create(path("/db/x/2")).unwrap();
    disk.create(path("/db/3")).unwrap();
    disk.sync_dir(path("/db/x")).unwrap();
    disk.set_model(DirectoryModel::Journalled);
    assert_eq!(names(&disk, 200), set(&["1 x/2", "1 3 x/2"]));
    assert_eq!(disk.after_crash(LoseAll).paths(), [path("/db/1"), path("/db/x/2")]);
    disk.set_model(DirectoryModel::Strict);
    assert_eq!(names(&disk, 200), set(&["x/2", "1 x/2", "3 x/2", "1 3 x/2"]));
    assert_eq!(disk.after_crash(LoseAll).paths(), [path("/db/x/2")]);
}

#[test]
fn a_rename_between_directories_never_leaves_the_file_without_a_name() {
    let renamed = || -> Result<SimStorage> {
        let disk = disk()?;
        disk.put("/db/x/a", b"a")?;
        disk.rename_noreplace(path("/db/x/a"), path("/db/a"))?;
        Ok(disk)
    };
    let (strict, journalled) = (DirectoryModel::Strict, DirectoryModel::Journalled);
    for (synced, model, expected) in [
        (&[][..], strict, &["x/a", "a x/a", "a"][..]),
        (&[], journalled, &["x/a", "a"]),
        (&["/db"], strict, &["a x/a", "a"]),
        (&["/db"], journalled, &["a"]),
        (&["/db/x"], strict, &["x/a", "a"]),
        (&["/db/x"], journalled, &["a"]),
        (&["/db/x", "/db"], strict, &["a"]),
    ] {
        let disk = renamed().unwrap();
        disk.set_model(model);
        for dir in synced {
            disk.sync_dir(path(dir)).unwrap();
        }
        assert_eq!(names(&disk, 200), set(expected), "{model:?} {synced:?}");
    }
}

#[test]
fn a_directory_whose_own_name_was_lost_takes_its_files_with_it() {
    let disk = disk().unwrap();
    disk.create_dir(path("/db/x/y")).unwrap();
    let mut file = disk.create(path("/db/x/y/a")).unwrap();
    file.append(b"x").unwrap();
    file.sync().unwrap();
    disk.sync_dir(path("/db/x/y")).unwrap();
    disk.sync_dir(path("/db/x")).unwrap();
    let after = disk.after_crash(LoseAll);
    assert!(after.list(path("/db")).unwrap().is_empty());
    assert_eq!(after.paths(), Vec::<&Path>::new());
    disk.sync_dir(path("/db")).unwrap();
    assert_eq!(disk.after_crash(LoseAll).bytes("/db/x/y/a").unwrap(), b"x");
}

#[test]
fn a_seed_always_gives_the_same_disk_and_seeds_differ() {
    let run = || -> Result<SimStorage> {
        let disk = disk()?;
        for name in ["/db/a", "/db/b", "/db/c"] {
            let mut file = disk.create(path(name))?;
            file.append(&[1; 3000])?;
            file.append(&[2; 3000])?;
        }
        Ok(disk)
    };
    let (first, second) = (run().unwrap(), run().unwrap());
    for seed in 0..100 {
        let expected = contents(&first.after_crash(Random(seed)));
        assert_eq!(contents(&first.after_crash(Random(seed))), expected);
        assert_eq!(contents(&second.after_crash(Random(seed))), expected);
    }
    assert!(outcomes(&first, 100).len() > 50);
}

#[test]
fn the_power_is_cut_before_the_chosen_operation() {
    let disk = disk().unwrap();
    let mut file = create(&disk, "/db/a").unwrap();
    let (start, reader) = (disk.operations(), disk.open(path("/db/a")).unwrap());
    disk.crash_at(start + 1);
    file.append(b"1").unwrap();
    assert!(!disk.crashed());
    let error = file.append(b"2").unwrap_err();
    assert_eq!(error.io_kind(), Some(std::io::ErrorKind::Other));
    assert_eq!(error.to_string(), "append to /db/a: power cut");
    assert!(disk.crashed());
    assert_eq!(
        disk.cut_operation().unwrap().to_string(),
        format!("#{} append to /db/a at 1: 1 bytes", start + 1)
    );
    assert!(reader.read_exact_at(0, &mut [0]).is_err());
    assert!(reader.map().is_err());
    assert!(file.sync().is_err());
    assert!(disk.list(path("/db")).is_err());
    assert!(disk.open(path("/db/a")).is_err());
    assert!(disk.free_space(path("/db")).is_err());
    assert_eq!(disk.operations(), start + 1);
    let after = disk.after_crash(KeepAll);
    assert_eq!(after.bytes("/db/a").unwrap(), b"1");
    assert_eq!((after.operations(), after.crashed(), after.log().len()), (0, false, 0));
    after.list(path("/db")).unwrap();
}

#[test]
fn one_run_gives_the_same_crash_states_as_a_run_cut_at_each_operation() {
    let run = |crash_at: Option<u64>| {
        let disk = SimStorage::new();
        disk.put("/before", b"0").unwrap();
        if let Some(number) = crash_at {
            disk.crash_at(number);
        }
        let workload = || -> Result<()> {
            disk.create_dir(path("/db"))?;
            disk.sync_dir(path("/"))?;
            publish(&disk, path("/db/a.tmp"), path("/db/a"), &[1; 1500])?;
            disk.put("/db/injected", b"!")?;
            disk.truncate("/before", 9)?;
            let mut file = disk.create(path("/db/b"))?;
            file.append(&[2; 700])?;
            disk.remove(path("/db/a"))?;
            file.append(&[3; 700])
        };
        let _cut = workload();
        disk
    };
    let whole = run(None);
    assert_eq!(whole.operations(), 11);
    for number in 0..=whole.operations() {
        let cut = run(Some(number));
        let policies = (0..20).map(Random).chain([LoseAll, KeepAll]);
        for policy in policies {
            let expected = contents(&cut.after_crash(policy));
            assert_eq!(contents(&whole.after_crash_at(number, policy)), expected, "#{number} {policy:?}");
        }
        assert_eq!(contents(&whole.after_kill_at(number)), contents(&cut.after_kill()));
    }
}

#[test]
fn what_survives_a_kill_can_still_be_lost_to_a_power_cut() {
    let disk = disk().unwrap();
    create(&disk, "/db/a").unwrap().append(b"x").unwrap();
    let killed = disk.after_kill();
    assert_eq!(killed.bytes("/db/a").unwrap(), b"x");
    assert_eq!(killed.after_crash(LoseAll).bytes("/db/a").unwrap(), b"");
    let lucky = disk.after_crash(KeepAll);
    assert_eq!(lucky.after_crash(LoseAll).bytes("/db/a").unwrap(), b"x");
}

#[test]
fn locks_are_released_by_a_crash_and_by_a_kill() {
    let disk = disk().unwrap();
    let guard = disk.lock(path("/db/LOCK")).unwrap();
    let error = disk.clone().lock(path("/db/LOCK")).unwrap_err();
    assert_eq!(error.to_string(), "/db/LOCK is locked by process 1 on host simulator");
    for after in [disk.after_crash(LoseAll), disk.after_crash(KeepAll), disk.after_kill()] {
        let _held = after.lock(path("/db/LOCK")).unwrap();
        assert!(after.lock(path("/db/LOCK")).unwrap_err().to_string().contains("process 2"));
    }
    assert!(disk.lock(path("/db/LOCK")).is_err());
    drop(guard);
    disk.lock(path("/db/LOCK")).unwrap();
}

/// Steps on two directories with a handful of names; errors are part of the game.
fn step(disk: &SimStorage, files: &mut Vec<Box<dyn WriteFile>>, (step, a, b): (u8, usize, usize)) {
    const PATHS: [&str; 6] = ["/db/a", "/db/b", "/db/c", "/db/x/a", "/db/x/b", "/db/y/z"];
    const DIRS: [&str; 3] = ["/db", "/db/x", "/db/y"];
    let (from, to, dir) = (path(PATHS[a % 6]), path(PATHS[b % 6]), path(DIRS[b % 3]));
    let _may_fail = match step {
        0 => disk.create(from).map(|file| files.push(file)),
        1 => disk.rename_noreplace(from, to),
        2 => disk.remove(from),
        3 => disk.create_dir(dir),
        4 => disk.sync_dir(dir),
        step => files.get_mut(a).map_or(Ok(()), |file| match step {
            5 => file.sync(),
            6 => file.preallocate(b as u64 * 100),
            _ => file.append(&vec![b as u8; b * 100]),
        }),
    };
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn once_everything_is_synced_no_crash_changes_anything(
        steps in prop::collection::vec((0_u8..9, 0_usize..12, 0_usize..12), 1..60),
        seed: u64,
    ) {
        let (disk, mut files) = (disk().unwrap(), Vec::new());
        for next in steps {
            step(&disk, &mut files, next);
            // Whatever state the crash leaves, it is durable and can be crashed again.
            let after = disk.after_crash(Random(seed));
            prop_assert_eq!(contents(&after.after_crash(LoseAll)), contents(&after));
            prop_assert_eq!(contents(&disk.after_crash(KeepAll)), contents(&disk));
        }
        for file in &mut files {
            file.sync().unwrap();
        }
        for dir in ["/db", "/db/x", "/db/y"] {
            let _may_be_missing = disk.sync_dir(path(dir));
        }
        let expected = contents(&disk);
        for model in [DirectoryModel::Strict, DirectoryModel::Journalled] {
            disk.set_model(model);
            for policy in [LoseAll, KeepAll, Random(seed)] {
                prop_assert_eq!(&contents(&disk.after_crash(policy)), &expected);
            }
        }
    }
}
