//! Jobs from the command line: flushes in the background, their records, backups, and signals.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Scratch, importing, plimsoll, small_line, small_lines};
use plimsoll::storage::{DirEntry, Lock, OsStorage, ReadFile, Storage, WriteFile};
use plimsoll::{
    Clock, Database, Document, FlushPolicy, JobId, JobOutcome, JobRequest, JobState, ReadOnlyDatabase,
    StorageError, SystemClock,
};
use serde_json::Value;

/// Far longer than anything should take.
const PATIENCE: Duration = Duration::from_secs(60);

fn one(run: common::Run) -> Value {
    run.json().remove(0)
}

/// A database with rows that are only in the log, as a killed import leaves it.
fn unflushed(rows: usize) -> Scratch {
    let scratch = Scratch::new();
    let mut child = importing(&scratch.db, rows);
    let mut stdin = child.stdin.take().unwrap();
    (0..rows).for_each(|row| writeln!(stdin, "{}", small_line(row)).unwrap());
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, format!("ACK {rows}\n"));
    child.kill().unwrap();
    child.wait().unwrap();
    scratch
}

/// A disk on which no sealed file can be begun, or only when a test lets go of this.
#[derive(Debug)]
struct Failing {
    until: Option<Arc<Mutex<()>>>,
}

impl Storage for Failing {
    fn create_dir(&self, dir: &Path) -> Result<(), StorageError> {
        OsStorage.create_dir(dir)
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>, StorageError> {
        OsStorage.list(dir)
    }

    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>, StorageError> {
        if path.components().all(|part| part.as_os_str() != "data") {
            return OsStorage.create(path);
        }
        match &self.until {
            None => Err(StorageError::io("create", path, std::io::Error::from_raw_os_error(5))),
            Some(until) => {
                drop(until.lock());
                OsStorage.create(path)
            }
        }
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn ReadFile>, StorageError> {
        OsStorage.open(path)
    }

    fn rename_noreplace(&self, from: &Path, to: &Path) -> Result<(), StorageError> {
        OsStorage.rename_noreplace(from, to)
    }

    fn remove(&self, path: &Path) -> Result<(), StorageError> {
        OsStorage.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<(), StorageError> {
        OsStorage.sync_dir(dir)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, StorageError> {
        OsStorage.lock(path)
    }

    fn free_space(&self, dir: &Path) -> Result<u64, StorageError> {
        OsStorage.free_space(dir)
    }
}

/// A database with ten rows of which the flush failed once and is to be tried again, as a process leaves it that ends
/// there; and the flush's id.
fn left() -> (Scratch, u64) {
    let scratch = Scratch::new();
    scratch.run("create", "c --dim 2").ok();
    let db = Database::builder(&scratch.db).storage(Arc::new(Failing { until: None })).open().unwrap();
    let collection = db.collection("c").unwrap();
    collection.set_flush_policy(FlushPolicy::manual()).unwrap();
    for key in 0..10_u64 {
        collection.upsert(Document::new(key).vector([key as f32, 1.0])).unwrap();
    }
    let job = db.start(JobRequest::flush()).unwrap();
    eventually("the flush waits for its next attempt", || {
        (job.record().state == JobState::Retrying).then_some(())
    });
    let JobId(id) = job.id();
    db.sync().unwrap();
    drop((job, collection, db));
    (scratch, id)
}

fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "it never happens that {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_flush_in_the_background_has_an_id_at_once_and_is_done() {
    let scratch = unflushed(40);
    let id = scratch.run("flush", "--no-wait").ok().trim().to_owned();
    assert!(id.parse::<u64>().is_ok(), "{id:?}");
    let shown = eventually("the flush ends", || {
        let shown = scratch.run("jobs", &format!("show {id} --json"));
        let shown = (shown.code == 0).then(|| one(shown))?;
        // Between the flush and its record it is known to be done, and no more.
        (shown["state"] == "completed" && !shown["flush"].is_null()).then_some(shown)
    });
    assert_eq!(
        (&shown["kind"], &shown["target"], &shown["reason"]),
        (&"flush".into(), &"all".into(), &"manual".into())
    );
    assert_eq!(shown["flush"]["rows"], 40);
    let stats = eventually("the process in the background ends", || {
        let stats = one(scratch.run("stats", "--json"));
        (stats["lsn"]["appended"] == stats["lsn"]["flushed"]).then_some(stats)
    });
    assert_eq!(stats["collections"][0]["flushed_documents"], 40);
    // What goes wrong before there is a job is said here.
    Scratch::new().run("flush", "--no-wait").fails(1, &["no such database"]);
    // Everything is in files before the process in the background has ended, which has the lock until then.
    let refused = eventually("the lock is free", || {
        let refused = scratch.run("flush", "--no-wait --collection nobody");
        (!refused.stderr.contains("is locked")).then_some(refused)
    });
    refused.fails(1, &["nobody", "c"]);
}

#[test]
fn a_flush_of_a_collection_and_the_list_of_jobs() {
    let scratch = unflushed(10);
    let report = one(scratch.run("flush", "--collection c --json"));
    assert_eq!((report["rows"].as_u64(), report["reason"].as_str()), (Some(10), Some("manual")));
    let id = report["job"].as_u64().unwrap();
    let listed = scratch.run("jobs", "ls --json").json();
    assert_eq!((listed[0]["id"].as_u64(), listed[0]["target"].as_str()), (Some(id), Some("c")));
    assert_eq!(listed[0]["attempts"], 1);
    let again = one(scratch.run("flush", "--json"));
    assert_eq!(again["operations_applied"], 0);
    let listed = scratch.run("jobs", "ls --json").json();
    assert_eq!((listed.len(), &listed[0]["state"]), (2, &"skipped".into()));
    assert_eq!(scratch.run("jobs", "ls --limit 1 --json").json().len(), 1);
    assert!(scratch.run("jobs", "ls").ok().contains("10 rows, LSN"));
    assert!(scratch.run("jobs", &format!("show {id}")).ok().contains("file_sync"));
    scratch.run("jobs", &format!("cancel {id}")).fails(1, &["is completed"]);
    scratch.run("jobs", &format!("retry {id}")).fails(1, &["is completed"]);
    for action in ["show", "cancel", "retry"] {
        scratch.run("jobs", &format!("{action} 4711")).fails(1, &["there is no job 4711"]);
    }
    scratch.run("flush", "--collection nobody").fails(1, &["nobody", "c"]);
    scratch.run("jobs", "show soon").fails(2, &["soon"]);
}

#[test]
fn a_backup_is_a_database_and_a_failed_one_can_be_repeated() {
    let scratch = Scratch::new();
    scratch.import(&small_lines(0..30));
    let copy = scratch.path("copy");
    std::fs::create_dir(&copy).unwrap();
    std::fs::write(copy.join("file"), "somebody else's").unwrap();
    scratch.run("backup", copy.to_str().unwrap()).fails(1, &["is not empty"]);
    scratch.run("backup", scratch.path("db/copy").to_str().unwrap()).fails(1, &["is in the database"]);
    std::fs::remove_file(copy.join("file")).unwrap();
    let data = std::fs::read_dir(scratch.path("db").join("data")).unwrap().map(|entry| entry.unwrap().path());
    let largest = data.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    flip(&largest);
    scratch.run("backup", copy.to_str().unwrap()).fails(1, &["checksum"]);
    let failed = scratch.run("jobs", "ls --json").json().remove(0);
    assert_eq!((&failed["kind"], &failed["state"]), (&"backup".into(), &"failed".into()));
    let unwell = scratch.run("doctor", "");
    assert_eq!(unwell.code, 1);
    assert!(unwell.stdout.contains("BAD") && unwell.stdout.contains("checksum"), "{}", unwell.stdout);
    let id = failed["id"].as_u64().unwrap();
    scratch.run("jobs", &format!("retry {id}")).fails(1, &["checksum"]);
    flip(&largest);
    let again = one(scratch.run("jobs", &format!("retry {id} --json")));
    assert_eq!((&again["kind"], &again["state"]), (&"backup".into(), &"completed".into()));
    assert!(again["summary"].as_str().unwrap().starts_with("copied "), "{again}");
    let export = |dir: &Path| plimsoll(["export".as_ref(), dir.as_os_str(), "c".as_ref()]).ok();
    assert_eq!(export(&copy), export(scratch.db.as_ref()));
    plimsoll(["verify".as_ref(), copy.as_os_str()]).ok();
    let second = scratch.path("second");
    let report = one(scratch.run("backup", &format!("{} --json", second.display())));
    assert!(report["files"].as_u64().unwrap() > 0 && report["bytes"].as_u64().unwrap() > 0);
    assert_eq!(export(&second), export(scratch.db.as_ref()));
    // What has failed once and then went well is history, and a copy is as well as what it is a copy of.
    scratch.run("doctor", "").ok();
    plimsoll([
        "import".as_ref(),
        second.as_os_str(),
        "c".as_ref(),
        scratch.file("more.jsonl", small_lines(40..41)).as_ref(),
    ])
    .ok();
    plimsoll(["doctor".as_ref(), second.as_os_str()]).ok();
}

#[test]
fn a_job_that_a_process_left_is_shown_cancelled_and_repeated() {
    let (scratch, id) = left();
    let show = |id: u64| one(scratch.run("jobs", &format!("show {id} --json")));
    let job = show(id);
    assert_eq!(
        (job["id"].as_u64(), &job["kind"], &job["target"]),
        (Some(id), &"flush".into(), &"all".into())
    );
    assert_eq!(
        (&job["state"], &job["priority"], &job["reason"]),
        (&"retrying".into(), &"high".into(), &"manual".into())
    );
    assert!(job["attempts"].as_u64().unwrap() >= 1 && job["finished_at"].is_null() && job["flush"].is_null());
    assert!(job["error"].as_str().unwrap().contains("create"), "{job}");
    let since_1970 = |of: &Value| std::time::UNIX_EPOCH + Duration::from_secs_f64(of.as_f64().unwrap());
    let (queued, began) = (since_1970(&job["queued_at"]), since_1970(&job["started_at"]));
    assert!(queued <= began && queued.elapsed().unwrap() < 24 * 60 * PATIENCE, "{job}");
    let look = one(scratch.run("stats", "--watch --times 1 --json"));
    assert_eq!((&look["queued"], &look["running"]), (&1.into(), &0.into()));
    assert_eq!((&look["unflushed_rows"], &look["flushed_rows"]), (&10.into(), &0.into()));
    assert!(look["unflushed_bytes"].as_u64().unwrap() > 0 && look["last_flush"].is_null());
    // A flush that does not succeed is what a doctor is for, and one that is cancelled is not.
    let unwell = scratch.run("doctor", "");
    assert_eq!(unwell.code, 1, "{unwell:?}");
    assert!(unwell.stdout.contains(&format!("BAD   flushes fail: job {id} is retrying")), "{unwell:?}");
    assert_eq!(scratch.run("doctor", "--json").code, 1);
    let cancelled = one(scratch.run("jobs", &format!("cancel {id} --json")));
    assert_eq!((cancelled["id"].as_u64(), &cancelled["state"]), (Some(id), &"cancelled".into()));
    assert_eq!((&show(id)["state"], show(id)["finished_at"].is_null()), (&"cancelled".into(), false));
    scratch.run("jobs", &format!("cancel {id}")).fails(1, &["is cancelled"]);
    scratch.run("doctor", "").ok();
    let again = one(scratch.run("jobs", &format!("retry {id} --json")));
    assert!(again["id"].as_u64().unwrap() > id, "{again}");
    // Closing after the cancellation has flushed the rows.
    assert_eq!((&again["kind"], &again["state"]), (&"flush".into(), &"skipped".into()));
    assert_eq!(one(scratch.run("stats", "--json"))["collections"][0]["flushed_documents"], 10);
}

#[test]
fn a_flush_that_fails_for_good_makes_the_doctor_unwell() {
    let scratch = Scratch::new();
    scratch.import(&small_lines(0..30));
    let data = scratch.path("db").join("data");
    let files = || std::fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
    let file = files().find(|path| path.extension().is_some_and(|of| of == "posting")).unwrap();
    // A row that replaces a stored one: its flush has to read where that is.
    let db = Database::open(&scratch.db).unwrap();
    let collection = db.collection("c").unwrap();
    collection.set_flush_policy(FlushPolicy::manual()).unwrap();
    collection.upsert(Document::new(3).vector([1.0, 1.0])).unwrap();
    drop((collection, db));
    scratch.run("doctor", "").ok();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, vec![0x5a; whole.len()]).unwrap();
    assert_ne!(scratch.run("flush", "").code, 0);
    // The doctor's own reading fails on the file, too: what it says of jobs is seen once that is mended.
    std::fs::write(&file, whole).unwrap();
    let last = scratch.run("jobs", "ls --json").json().remove(0);
    assert_eq!((&last["kind"], &last["state"]), (&"flush".into(), &"failed".into()), "{last}");
    let unwell = scratch.run("doctor", "");
    assert_eq!(unwell.code, 1, "{unwell:?}");
    assert!(unwell.stdout.contains("flushes fail") && unwell.stdout.contains("is failed"), "{unwell:?}");
    let id = last["id"].as_u64().unwrap();
    let again = one(scratch.run("jobs", &format!("retry {id} --json")));
    assert_eq!((&again["state"], &again["flush"]["rows"]), (&"completed".into(), &1.into()), "{again}");
    scratch.run("doctor", "").ok();
}

/// What the time was so long ago.
#[derive(Debug)]
struct Ago(Duration);

impl Clock for Ago {
    fn now(&self) -> Duration {
        SystemClock.now()
    }

    fn unix_time(&self) -> Duration {
        SystemClock.unix_time() - self.0
    }
}

#[test]
fn what_failed_more_than_a_day_ago_is_history() {
    let hour = 60 * PATIENCE;
    for (ago, code) in [(23 * hour, 1), (25 * hour, 0)] {
        let scratch = Scratch::new();
        scratch.import(&small_lines(0..30));
        let data = std::fs::read_dir(scratch.path("db").join("data")).unwrap();
        let data = data.map(|entry| entry.unwrap().path());
        let largest = data.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
        flip(&largest);
        let db = Database::builder(&scratch.db).clock(Arc::new(Ago(ago))).open().unwrap();
        let backup = db.start(JobRequest::backup(scratch.path("copy"))).unwrap();
        assert!(backup.wait().unwrap_err().is_corruption());
        db.close().unwrap();
        drop((backup, db));
        flip(&largest);
        let told = scratch.run("doctor", "");
        assert_eq!(
            (told.code, told.stdout.contains("the last backup failed")),
            (code, code == 1),
            "{told:?}"
        );
    }
}

/// What is printed of a flush is what it did.
#[test]
fn a_flush_tells_its_figures() {
    let scratch = Scratch::new();
    scratch.import(&small_lines(0..10));
    // Three of the ten are replaced, and a fourth is deleted.
    let db = Database::open(&scratch.db).unwrap();
    let collection = db.collection("c").unwrap();
    collection.set_flush_policy(FlushPolicy::manual()).unwrap();
    let write = |key: u64| collection.upsert(Document::new(key).vector([1.0, key as f32])).unwrap().0;
    let lsns = [1, 2, 3].map(write);
    assert!(collection.delete(4).unwrap());
    drop((collection, db));
    let report = one(scratch.run("flush", "--json --all --wait"));
    let number = |name: &str| report[name].as_u64().unwrap();
    let names = ["operations_applied", "rows", "killed", "shards_touched"];
    assert_eq!(names.map(number), [4, 3, 4, 1], "{report}");
    assert_eq!((number("first_lsn"), number("last_lsn")), (lsns[0], lsns[2] + 1), "{report}");
    // The rest is as the engine's own record of the job says.
    let reader = ReadOnlyDatabase::open(&scratch.db).unwrap();
    let Some(JobOutcome::Flush(flush)) = reader.job(JobId(number("job"))).unwrap().outcome else {
        panic!("no flush: {report}")
    };
    assert!(number("files_synced") > 3 && number("bytes_written") > 0, "{report}");
    assert_eq!(number("files_synced"), flush.files_synced as u64);
    assert_eq!(number("bytes_written"), flush.bytes_written);
    let time = |name: &str| report[name].as_f64().unwrap();
    let phases = ["wal_drain", "shard_apply", "file_sync", "manifest_publish", "wal_advance", "validation"];
    assert!(phases.map(time).iter().all(|took| *took > 0.0), "{report}");
    for (name, took) in flush.phases().into_iter().chain([("total", flush.total)]) {
        assert!((time(name) - took.as_secs_f64()).abs() < 1e-9, "{name}: {report}");
    }
    let (sum, total) = (phases.map(time).iter().sum::<f64>(), time("total"));
    assert!(sum <= total * 1.000_001, "{report}");
    let slowest = phases.into_iter().max_by(|a, b| time(a).total_cmp(&time(b))).unwrap();
    assert_eq!(report["slowest_phase"], slowest);
    let per_second = [time("operations_per_second") * total, time("megabytes_per_second") * total * 1e6];
    let expected = [4.0, number("bytes_written") as f64];
    assert!(per_second.iter().zip(expected).all(|(a, b)| (a - b).abs() < b * 1e-6), "{report}");
    // Its record says the same.
    let recorded = one(scratch.run("jobs", &format!("show {} --json", number("job"))));
    for (name, value) in recorded["flush"].as_object().unwrap() {
        assert_eq!(report[name], *value, "{name}");
    }
    assert_eq!((&recorded["first_lsn"], &recorded["last_lsn"]), (&report["first_lsn"], &report["last_lsn"]));
}

#[test]
fn a_flush_of_a_collection_in_the_background_is_of_that_one() {
    let scratch = unflushed(10);
    let id = scratch.run("flush", "--no-wait --collection c").ok().trim().to_owned();
    let shown = eventually("the flush is recorded", || {
        let shown = scratch.run("jobs", &format!("show {id} --json"));
        (shown.code == 0).then(|| one(shown))
    });
    assert_eq!(shown["target"], "c");
}

/// Changes a bit in the middle of a file, or changes it back.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn the_doctor_finds_a_sound_database_well_and_says_what_is_missing() {
    let scratch = unflushed(5);
    let well = one(scratch.run("doctor", "--json"));
    assert_eq!(well["ok"], true);
    assert!(well["findings"][1]["what"].as_str().unwrap().starts_with("5 rows wait"), "{well}");
    scratch.run("flush", "").ok();
    let data = scratch.path("db").join("data");
    let file = std::fs::read_dir(&data).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(file).unwrap();
    assert_eq!(scratch.run("verify", "").code, 1);
    Scratch::new().run("doctor", "").fails(1, &["no such database"]);
}

#[test]
fn watching_shows_what_changes_beside_the_writer() {
    let scratch = Scratch::new();
    scratch.import(&small_lines(0..10));
    let looks = scratch.run("stats", "--watch --times 3 --interval 20ms --json").json();
    assert_eq!(looks.len(), 3);
    for look in &looks {
        assert_eq!((&look["flushed_rows"], &look["unflushed_rows"]), (&10.into(), &0.into()));
        assert_eq!(look["lsn"]["appended"], look["lsn"]["flushed"]);
        assert_eq!((&look["running"], &look["queued"]), (&0.into(), &0.into()));
    }
    let text = scratch.run("stats", "--watch --times 1").ok();
    assert!(text.contains("10 in files") && text.contains("0 queued"), "{text}");
}

#[test]
fn watching_shows_the_job_that_the_writer_is_doing() {
    let scratch = Scratch::new();
    scratch.run("create", "c --dim 2").ok();
    let until = Arc::new(Mutex::new(()));
    let storage = Arc::new(Failing { until: Some(Arc::clone(&until)) });
    let db = Database::builder(&scratch.db).storage(storage).open().unwrap();
    db.collection("c").unwrap().upsert(Document::new(1).vector([1.0, 2.0])).unwrap();
    let held = until.lock().unwrap();
    let job = db.start(JobRequest::flush()).unwrap();
    eventually("the flush is shown under way", || {
        db.sync().unwrap();
        let look = one(scratch.run("stats", "--watch --times 1 --json"));
        ((&look["running"], &look["queued"]) == (&1.into(), &0.into())).then_some(())
    });
    drop(held);
    job.wait().unwrap();
    db.close().unwrap();
    let look = one(scratch.run("stats", "--watch --times 1 --json"));
    assert_eq!((&look["running"], &look["queued"]), (&0.into(), &0.into()));
}

/// Each look says how fast things went since the one before, and how the last flush was.
#[test]
fn watching_tells_rates_and_the_last_flush() {
    let scratch = unflushed(10);
    let args = ["stats", &scratch.db, "--watch", "--interval", "20ms", "--json"];
    let mut watching = common::piped(common::command().args(args)).spawn().unwrap();
    let mut looks = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut look = || serde_json::from_str::<Value>(&looks.next().unwrap().unwrap()).unwrap();
    let mut before = look();
    assert_eq!(
        (&before["batches_per_second"], &before["flushed_rows_per_second"]),
        (&0.0.into(), &0.0.into())
    );
    assert!(before["last_flush"].is_null());
    scratch.run("flush", "").ok();
    let end = Instant::now() + PATIENCE;
    loop {
        let now = look();
        assert!(Instant::now() < end, "nothing is told of the flush: {now}");
        for (count, rate) in
            [(["/flushed_rows"], "flushed_rows_per_second"), (["/lsn/appended"], "batches_per_second")]
        {
            let of = |look: &Value| look.pointer(count[0]).unwrap().as_u64().unwrap();
            let is_rising = of(&now) > of(&before);
            assert_eq!(now[rate].as_f64().unwrap() > 0.0, is_rising, "{rate}: {before}, {now}");
        }
        if now["flushed_rows"] == 10 && now["last_flush"]["rows"] == 10 {
            assert!(now["last_flush"]["seconds"].as_f64().unwrap() > 0.0);
            assert!(now["disk_bytes"].as_u64() > Some(0) && now["unflushed_rows"] == 0);
            break;
        }
        before = now;
    }
    watching.kill().unwrap();
    watching.wait().unwrap();
}

/// A hundred looks with the usual pause would take longer than anyone waits.
#[test]
fn looks_come_as_often_as_is_asked_for() {
    let scratch = Scratch::new();
    scratch.import(&small_lines(0..2));
    let args = ["stats", &scratch.db, "--watch", "--interval", "10ms", "--times", "100", "--json"];
    let mut watching = common::piped(common::command().args(args)).spawn().unwrap();
    let stdout = watching.stdout.take().unwrap();
    let looks = std::thread::spawn(move || BufReader::new(stdout).lines().count());
    let end = Instant::now() + PATIENCE;
    while watching.try_wait().unwrap().is_none() {
        if Instant::now() > end {
            watching.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(looks.join().unwrap(), 100);
}

#[cfg(unix)]
fn signal(child: &Child, signal: rustix::process::Signal) {
    let id = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(id, signal).unwrap();
}

/// Whether it waits for input or is in the middle of it: what was acknowledged is in files, and the log is empty.
#[cfg(unix)]
#[test]
fn a_signal_flushes_what_was_accepted_and_says_how_much() {
    use rustix::process::Signal;
    for (which, goes_on) in
        [(Signal::INT, true), (Signal::TERM, true), (Signal::INT, false), (Signal::TERM, false)]
    {
        let scratch = Scratch::new();
        let mut child = importing(&scratch.db, 7);
        let mut stdin = child.stdin.take().unwrap();
        let stdout = child.stdout.take().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        (0..21).for_each(|row| writeln!(stdin, "{}", small_line(row)).unwrap());
        let mut lines = BufReader::new(stdout).lines();
        let mut acknowledged =
            || -> Option<u64> { Some(lines.next()?.unwrap().strip_prefix("ACK ").unwrap().parse().unwrap()) };
        while acknowledged() != Some(21) {}
        // Otherwise it waits for input that does not come.
        let mut input = Some(stdin);
        let feeder = goes_on.then(|| {
            let mut stdin = input.take().unwrap();
            std::thread::spawn(move || {
                for row in 21.. {
                    if writeln!(stdin, "{}", small_line(row)).is_err() {
                        return;
                    }
                }
            })
        });
        signal(&child, which);
        let mut last = 21;
        while let Some(rows) = acknowledged() {
            last = rows;
        }
        let status = child.wait().unwrap();
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("interrupted; {last} rows before it are stored")), "{last}: {said}");
        drop(input);
        drop(feeder.map(std::thread::JoinHandle::join));
        let stats = one(scratch.run("stats", "--json"));
        assert_eq!(stats["lsn"]["appended"], stats["lsn"]["flushed"], "{which:?}: {said}");
        assert_eq!(stats["collections"][0]["flushed_documents"], last);
    }
}
