//! The layer `full-disk`: a disk that is full after any number of bytes.
//!
//! The old state stays fully usable; deletes, reads, flushes, compactions and closing work, by the reserve;
//! and space comes back.

use plimsoll::{Document, Durability, Key, Metric};
use plimsoll_sim::{CrashPolicy, SimStorage};

use crate::campaign::{Campaign, Layer};
use crate::random::Random;
use crate::recorder::Recorder;
use crate::recovery::{assert_allowed, assert_sound, builder, check_recovery, contents, empty_disk};

/// The step by which the free space grows from case to case.
const STEP: u64 = 4096;

pub(crate) fn matrix(campaign: &Campaign) {
    // Around each page, and in small steps where the first segment of the log ends.
    let pages = (0..24u64).flat_map(|page| [page * STEP, page * STEP + 1, (page + 1) * STEP - 1]);
    let filled = pages.chain((0..64).map(|n| n * 128)).map(|free| ("fill", free));
    let created = (0..800u64).map(|n| ("create", if n < 600 { n * 16 } else { (n - 600) * STEP }));
    each(campaign, filled.chain(created));
}

pub(crate) fn random(campaign: &Campaign, seed: u64) {
    let mut random = Random::new(seed);
    let free = (0..4).map(|_| ("fill", random.below(200_000) as u64)).collect::<Vec<_>>();
    each(campaign, free.into_iter());
}

fn each(campaign: &Campaign, cases: impl Iterator<Item = (&'static str, u64)> + Send) {
    let name = |(kind, bytes): &(&str, u64)| format!("{kind}-{bytes}");
    campaign.each(Layer::FullDisk, cases, name, |(kind, bytes)| run(campaign, kind, *bytes));
}

pub(crate) fn replay(campaign: &Campaign, case: &str) -> Result<String, String> {
    let wrong = || format!("{case:?} is no case: fill-BYTES or create-BYTES");
    let (kind, bytes) = case.split_once('-').ok_or_else(wrong)?;
    let bytes = bytes.parse().map_err(|_| wrong())?;
    campaign.case(Layer::FullDisk, || case.to_owned(), || run(campaign, kind, bytes));
    Ok(format!("{kind} with {bytes} bytes free"))
}

fn run(campaign: &Campaign, kind: &str, bytes: u64) {
    campaign.counters.full_disks.one();
    match kind {
        "fill" => fill(campaign, bytes),
        _ => create(campaign, bytes),
    }
}

fn used(disk: &SimStorage) -> u64 {
    (1 << 40) - disk.free_bytes()
}

fn document(key: u64, size: usize) -> Document {
    Document::new(key).text("padding ".repeat(size)).vector([key as f32 + 1.0, 0.5])
}

/// Fills a disk that has so many bytes free when the writing begins.
pub fn fill_with(campaign: &Campaign, free: u64) {
    campaign.case(Layer::FullDisk, || format!("fill-{free}"), || run(campaign, "fill", free));
}

fn fill(campaign: &Campaign, free: u64) {
    let mut run = Recorder::new();
    run.open();
    run.create("a", 2, Metric::L2);
    for n in 0..4 {
        let some: Vec<_> = (n * 8..n * 8 + 12).map(|key| document(key, 9)).collect();
        run.write("a", &some, &[n], Durability::Durable);
        run.flush();
    }
    run.write("a", &[document(50, 3)], &[], Durability::Durable);
    run.disk.set_capacity(used(&run.disk) + free);
    let collection = run.db().collection("a").unwrap();
    let mut written = 0;
    let refused = loop {
        let key = 100 + written;
        let padded = document(key, (key % 40) as usize * 4);
        match collection.upsert(padded.clone()) {
            Ok(_) => run.model.collection("a").put(padded),
            Err(error) => break error,
        }
        written += 1;
        assert!(written < 20_000, "the disk never fills");
    };
    campaign.counters.model_operations.add(written);
    assert!(refused.is_retryable(), "{refused:?}");
    assert_allowed(&contents(run.db()), &[&run.model], "full");
    assert_sound(run.db(), "full");
    for policy in [CrashPolicy::LoseAll, CrashPolicy::KeepAll, CrashPolicy::Random(free)] {
        // Recovery finds a disk with room: it may need as much as the log takes.
        let disk = run.disk.after_crash(policy);
        disk.set_capacity(1 << 40);
        campaign.counters.state(&disk);
        campaign.counters.recoveries.one();
        check_recovery(&disk, &[&run.model], &format!("full; {policy:?}"));
    }
    let full = used_of(&run.disk);
    let keys: Vec<Key> = run.model.collections["a"].documents.keys().cloned().collect();
    for (n, key) in keys.into_iter().enumerate().filter(|(n, _)| n % 8 != 0) {
        let deleted = collection.delete(key.clone());
        assert!(deleted.as_ref().is_ok_and(|deleted| *deleted), "delete {n}: {deleted:?}");
        run.model.collection("a").documents.remove(&key);
        campaign.counters.model_operations.one();
    }
    assert_allowed(&contents(run.db()), &[&run.model], "after deletes");
    run.db().flush().unwrap_or_else(|error| panic!("flush: {error}"));
    run.db().compact().unwrap_or_else(|error| panic!("compact: {error}"));
    assert_allowed(&contents(run.db()), &[&run.model], "after a compaction on a full disk");
    assert_sound(run.db(), "after a compaction on a full disk");
    let freed = used_of(&run.disk);
    assert!(freed < full, "{full} bytes taken before the deletes, {freed} after the compaction");
    collection.upsert(document(7, 1)).unwrap_or_else(|error| panic!("there is room again: {error}"));
    run.model.collection("a").put(document(7, 1));
    drop(collection);
    run.db().close().unwrap_or_else(|error| panic!("close: {error}"));
    run.db = None;
    let db = builder(&run.disk).open().unwrap_or_else(|error| panic!("does not open: {error}"));
    assert_allowed(&contents(&db), &[&run.model], "opened again");
    drop(db);
    run.disk.set_capacity(1 << 40);
    check_recovery(&run.disk, &[&run.model], "freed");
}

/// The bytes that files take.
fn used_of(disk: &SimStorage) -> u64 {
    disk.paths().iter().map(|path| disk.bytes(path).map_or(0, |bytes| bytes.len() as u64)).sum()
}

/// A database that is created on a disk of so many bytes.
fn create(campaign: &Campaign, bytes: u64) {
    let disk = empty_disk();
    disk.set_capacity(bytes);
    let write = |disk: &SimStorage| -> plimsoll::Result<()> {
        let db = builder(disk).open()?;
        let config = plimsoll::CollectionConfig::new(2, Metric::L2);
        db.create_collection("a", config)?.upsert(document(1, 1))?;
        db.close()
    };
    let result = write(&disk);
    campaign.counters.state(&disk.after_crash(CrashPolicy::KeepAll));
    let is_full = |error: &plimsoll::Error| error.is_retryable();
    assert!(result.as_ref().err().is_none_or(is_full), "{result:?}");
    disk.set_capacity(1 << 40);
    write(&disk).unwrap_or_else(|error| panic!("there is room now: {error}"));
    let mut run = Recorder::on(disk.clone());
    run.model.create("a", &plimsoll::CollectionConfig::new(2, Metric::L2));
    run.model.collection("a").put(document(1, 1));
    campaign.counters.recoveries.one();
    check_recovery(&disk, &[&run.model], "there is room now");
}
