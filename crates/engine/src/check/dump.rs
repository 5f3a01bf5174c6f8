//! `dump`: what any one file of a database says, for people.

use std::path::Path;

use plimsoll_base::storage::{OsStorage, Storage};
use plimsoll_shard::FileName;
use plimsoll_wal::format::{Previous, RecordKind, SegmentHeader};

use crate::error::{Error, Result};
use crate::manifest::{self, CollectionEntry, Manifest};

/// What a file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Dump {
    /// What kind of file it is.
    pub title: String,
    /// What it says, in the order of the file.
    pub fields: Vec<(String, String)>,
    /// The first damage in it, if there is any.
    pub damage: Option<String>,
}

impl Dump {
    fn field(&mut self, name: impl Into<String>, value: impl ToString) {
        self.fields.push((name.into(), value.to_string()));
    }
}

/// Describes one file of a database, by its name: a manifest, a log segment, or a sealed file. Checksums are
/// verified; of damaged files it tells what can be told.
///
/// # Errors
/// [`Error::Storage`] if the file can not be read, or is damaged so that nothing can be told;
/// [`Error::InvalidArgument`] if it has none of our names.
pub fn dump(path: impl AsRef<Path>) -> Result<Dump> {
    dump_in(path.as_ref(), &OsStorage)
}

/// As [`dump`], through a storage of the caller's.
///
/// # Errors
/// As [`dump`].
pub fn dump_in(path: &Path, storage: &dyn Storage) -> Result<Dump> {
    storage.open(path)?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    if let Some(number) = manifest::number_of(name).or(manifest::old_number_of(name)) {
        return dump_manifest(&Manifest::read_from(storage, path, number)?);
    }
    if name.ends_with(".wal") {
        return dump_segment(storage, path);
    }
    if FileName::parse(name).is_some() {
        let description = plimsoll_shard::describe(storage, path)?;
        let mut dump = Dump {
            title: "sealed file".to_owned(),
            fields: description.fields,
            damage: description.damage.map(|damage| damage.to_string()),
        };
        for section in &description.sections {
            dump.field(
                format!("section {} of {}", section.name, section.owner),
                format!("{} bytes at {}", section.len, section.offset),
            );
        }
        return Ok(dump);
    }
    let what = "is nothing to dump: its name is not that of a manifest, a log segment, or a sealed file";
    Err(Error::InvalidArgument(format!("{} {what}", path.display())))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn dump_manifest(manifest: &Manifest) -> Result<Dump> {
    let mut dump = Dump { title: format!("manifest {}", manifest.number), ..Dump::default() };
    dump.field("database", hexadecimal(&manifest.database));
    dump.field("next file", manifest.next_file);
    dump.field("next collection", manifest.next_collection);
    dump.field("WAL pointer", manifest.wal_pointer);
    dump.field("durable LSN", manifest.durable);
    dump.field("newest log segment", manifest.newest_segment);
    manifest.collections.iter().for_each(|entry| dump_collection(&mut dump, entry));
    Ok(dump)
}

fn dump_collection(dump: &mut Dump, entry: &CollectionEntry) {
    let name = format!("collection {} {:?}", entry.id, entry.name);
    let config = format!("{} dimensions, {}", entry.config.dimension, entry.config.metric);
    dump.field(name.clone(), config);
    dump.field(format!("{name} flushed LSN"), entry.flushed);
    dump.field(format!("{name} next ordinal"), entry.next_ordinal);
    for posting in &entry.postings {
        let what = format!(
            "ordinals {} to {}, {} documents ({} killed), {} rows, {} bytes",
            posting.first_ordinal,
            posting.last_ordinal,
            posting.documents,
            posting.killed,
            posting.rows,
            posting.file.len
        );
        dump.field(format!("{name} {}", posting.file.name()), what);
    }
    for vector in &entry.vectors {
        let kind = if vector.base { "base" } else { "delta" };
        let rows: u64 = vector.live.iter().map(|(_, rows)| rows).sum();
        let what = format!(
            "{kind} of generation {}, {} live shards, {rows} rows, {} bytes",
            vector.generation,
            vector.live.len(),
            vector.file.len
        );
        dump.field(format!("{name} {}", vector.file.name()), what);
    }
    for kill in &entry.kills {
        dump.field(format!("{name} {}", kill.file.name()), format!("{} ordinals", kill.ordinals));
    }
    for index in &entry.indexes {
        let what = format!(
            "generation {}, {} lists, {} shards, trained on {} rows",
            index.generation, index.lists, index.shards, index.rows_at_training
        );
        dump.field(format!("{name} {}", index.file.name()), what);
    }
}

fn dump_segment(storage: &dyn Storage, path: &Path) -> Result<Dump> {
    let mut records = Vec::new();
    let mut damage = None;
    let info = plimsoll_wal::describe(storage, path, |record| {
        let gap = if record.gap > 0 {
            format!(", after {} bytes that are no record", record.gap)
        } else {
            String::new()
        };
        let kind = match record.header.kind {
            RecordKind::Commit => "batch with",
            RecordKind::Mark => "mark at",
        };
        let state = if record.payload_valid { "valid" } else { "damaged" };
        if !record.payload_valid {
            damage.get_or_insert_with(|| format!("the record at byte {} is not whole", record.offset));
        }
        let what = format!(
            "{kind} LSN {}, {} bytes, durable before {}, {state}{gap}",
            record.header.lsn, record.header.payload_len, record.header.durable_before
        );
        records.push((format!("record at {}", record.offset), what));
        Ok(())
    })?;
    let mut dump =
        Dump { title: format!("WAL segment {}", info.header.file.number), damage, ..Dump::default() };
    let SegmentHeader { file, salt, previous, capacity } = &info.header;
    dump.field("database", hexadecimal(&file.database));
    dump.field("version", file.version);
    dump.field("salt", format!("{salt:016x}"));
    dump.field("first LSN", info.header.first_lsn());
    if previous.exists() {
        let Previous { number, end, last_lsn } = previous;
        dump.field("previous segment", format!("{number}, which ends at byte {end} with LSN {last_lsn}"));
    }
    dump.field("created with", format!("{capacity} bytes"));
    dump.field("file bytes", info.file_len);
    dump.field("records end", info.records_end);
    dump.field("records", records.len());
    dump.fields.extend(records);
    Ok(dump)
}
