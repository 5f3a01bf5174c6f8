//! Moments of a run, and the states that a power cut may leave at one: each pending change on its own.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use plimsoll_base::storage::Storage as _;
use plimsoll_sim::{CrashPolicy, DirectoryModel, Failure, OperationKind, PendingKind, SimStorage};

use DirectoryModel::{Journalled, Strict};

fn path(path: &str) -> &Path {
    Path::new(path)
}

/// A durable empty file `/a`, two names that are not, and bytes in `/a` and `/b` that are not.
fn disk() -> SimStorage {
    let disk = SimStorage::new();
    let mut a = disk.create(path("/a")).unwrap();
    disk.sync_dir(path("/")).unwrap();
    a.append(&[1; 100]).unwrap();
    a.append(&[2; 1000]).unwrap();
    let mut b = disk.create(path("/b")).unwrap();
    b.append(b"b").unwrap();
    drop(disk.create(path("/c")).unwrap());
    disk
}

#[test]
fn what_is_pending_is_listed() {
    let now = disk().now();
    let listed = |model| {
        let pending = now.pending(model);
        pending
            .into_iter()
            .map(|p| (p.path.display().to_string(), p.kind, p.changes, p.outcomes))
            .collect::<Vec<_>>()
    };
    let bytes = [
        ("/a".to_owned(), PendingKind::Write, 1, 3),
        // Bytes 100 to 1,100 lie in three sectors.
        ("/a".to_owned(), PendingKind::Write, 1, 5),
        ("/b".to_owned(), PendingKind::Write, 1, 3),
    ];
    let names = ["/b", "/c"].map(|path| (path.to_owned(), PendingKind::Name, 1, 2));
    assert_eq!(listed(Strict), [&names[..], &bytes].concat());
    let journal = [("/b".to_owned(), PendingKind::Journal, 2, 3)];
    assert_eq!(listed(Journalled), [&journal[..], &bytes].concat());
}

#[test]
fn each_outcome_is_a_state() {
    let now = disk().now();
    let bytes = |outcomes: &[usize], file: &str| now.power_cut_with(Strict, outcomes).bytes(file);
    assert_eq!(bytes(&[0, 0, 0, 0, 0], "/b"), None);
    assert_eq!(bytes(&[1, 0, 0, 0, 0], "/b"), Some(vec![]));
    assert_eq!(bytes(&[1, 0, 0, 0, 1], "/b"), Some(b"b".to_vec()));
    assert_eq!(bytes(&[1, 0, 0, 0, 2], "/b"), Some(vec![0]));
    assert_eq!(bytes(&[0, 0, 0, 1, 0], "/a").unwrap(), [vec![0; 100], vec![2; 1000]].concat());
    assert_eq!(bytes(&[0, 0, 1, 2, 0], "/a").unwrap(), [vec![1; 100], vec![0; 1000]].concat());
    assert_eq!(bytes(&[0, 0, 1, 3, 0], "/a").unwrap(), [vec![1; 100], vec![2; 412]].concat());
    assert_eq!(bytes(&[0, 0, 1, 4, 0], "/a").unwrap(), [vec![1; 100], vec![2; 924]].concat());
    let paths = |first| now.power_cut_with(Journalled, &[first, 0, 0, 0]).paths();
    assert_eq!(paths(1), [path("/a"), path("/b")]);
    assert_eq!(paths(2), [path("/a"), path("/b"), path("/c")]);
}

#[test]
fn the_extremes_are_among_the_outcomes() {
    let now = disk().now();
    for (model, kept) in [(Strict, vec![1; 5]), (Journalled, vec![2, 1, 1, 1])] {
        let state = |outcomes: &[usize]| now.power_cut_with(model, outcomes).fingerprint();
        assert_eq!(state(&vec![0; kept.len()]), now.power_cut(model, CrashPolicy::LoseAll).fingerprint());
        assert_eq!(state(&kept), now.power_cut(model, CrashPolicy::KeepAll).fingerprint());
    }
}

#[test]
fn every_random_state_is_one_of_all_of_them() {
    // Without the large write, whose sectors a random outcome may lose in any combination.
    let disk = SimStorage::new();
    let mut a = disk.create(path("/a")).unwrap();
    a.append(b"one").unwrap();
    a.append(b"two").unwrap();
    drop(disk.create(path("/b")).unwrap());
    disk.remove(path("/b")).unwrap();
    let now = disk.now();
    for model in [Strict, Journalled] {
        let pending = now.pending(model);
        let mut all = vec![vec![]];
        for pending in &pending {
            let longer = |chosen: &Vec<usize>| {
                let chosen = chosen.clone();
                (0..pending.outcomes).map(move |outcome| [chosen.clone(), vec![outcome]].concat())
            };
            all = all.iter().flat_map(longer).collect();
        }
        let states: BTreeSet<u64> =
            all.iter().map(|outcomes| now.power_cut_with(model, outcomes).fingerprint()).collect();
        for seed in 0..500 {
            let state = now.power_cut(model, CrashPolicy::Random(seed)).fingerprint();
            assert!(states.contains(&state), "seed {seed}, {model:?}");
        }
    }
}

#[test]
fn moments_are_the_disk_before_each_operation() {
    let disk = disk();
    let moments: Vec<_> = disk.moments().collect();
    assert_eq!(moments.len() as u64, disk.operations() + 1);
    for moment in &moments {
        for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random(7)] {
            let (once, again) =
                (moment.power_cut(Strict, policy), disk.after_crash_at(moment.number(), policy));
            assert_eq!(once.fingerprint(), again.fingerprint(), "{policy:?} at {}", moment.number());
        }
    }
}

#[test]
fn a_fingerprint_is_that_of_names_and_bytes() {
    let of = |files: &[(&str, &[u8])]| {
        let disk = SimStorage::new();
        files.iter().for_each(|(path, bytes)| disk.put(path, bytes).unwrap());
        disk
    };
    let disk = of(&[("/a", b"x\0\0"), ("/b", b"")]);
    assert_eq!(disk.fingerprint(), of(&[("/b", b""), ("/a", b"x\0\0")]).fingerprint());
    for other in
        [&[("/a", &b"x\0"[..]), ("/b", b"")][..], &[("/a", b"x\0\0")], &[("/a", b""), ("/b", b"x\0\0")]]
    {
        assert_ne!(disk.fingerprint(), of(other).fingerprint());
    }
    // Preallocated zeros are like written ones.
    let preallocated = of(&[("/b", b"")]);
    let mut file = preallocated.create(path("/a")).unwrap();
    file.append(b"x").unwrap();
    file.preallocate(3).unwrap();
    assert_eq!(preallocated.fingerprint(), disk.fingerprint());
}

#[test]
fn a_guard_sees_what_a_removal_would_leave() {
    let disk = SimStorage::new();
    disk.put("/kept", b"1").unwrap();
    disk.put("/free", b"2").unwrap();
    drop(disk.create(path("/unsynced")).unwrap());
    disk.guard_removals(|disk, removed| {
        assert!(disk.bytes(removed).is_none() && disk.bytes("/unsynced").is_none());
        if disk.bytes("/kept").is_some() { Ok(()) } else { Err("it was needed".to_owned()) }
    });
    disk.remove(path("/free")).unwrap();
    assert_eq!(disk.violations(), [] as [String; 0]);
    // Also after a crash.
    let disk = disk.after_crash(CrashPolicy::LoseAll);
    disk.remove(path("/kept")).unwrap();
    let violations = disk.violations();
    assert!(
        violations.len() == 1 && violations[0].contains("/kept") && violations[0].contains("it was needed")
    );
}

#[test]
fn faults_strike_after_others_and_are_counted() {
    let disk = disk();
    disk.fail_after(OperationKind::List, 2, Failure::errno(4), 1);
    let listed: Vec<bool> = (0..4).map(|_| disk.list(path("/")).is_ok()).collect();
    assert_eq!(listed, [true, true, false, true]);
    assert_eq!(disk.reads(OperationKind::List), 4);
    disk.fail_next(OperationKind::Create, Failure::slow(Duration::from_millis(20)), 1);
    let start = Instant::now();
    drop(disk.create(path("/slow")).unwrap());
    assert!(start.elapsed() >= Duration::from_millis(20));
    let struck: Vec<_> = disk.faults_struck().into_iter().collect();
    assert_eq!(
        struck,
        [((OperationKind::Create, "slow".to_owned()), 1), ((OperationKind::List, "EINTR".to_owned()), 1)]
    );
}
