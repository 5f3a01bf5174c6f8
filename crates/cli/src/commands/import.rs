//! `plimsoll import`: rows of files, in batches that are each one atomic, durable write.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use plimsoll::limits::{MAX_BATCH_BYTES, MAX_DIMENSION};
use plimsoll::{Collection, CollectionConfig, Database, Document, Error, WriteBatch};
use serde::Serialize;

use crate::args::Import;
use crate::error::{CliError, Result};
use crate::input::{InputError, Operation, Place, Row, format_of, is_stdin, name_of, open_rows};
use crate::interrupt::Interrupt;
use crate::output::{Output, counted};
use crate::progress::Progress;

#[derive(Serialize)]
struct Summary {
    rows: u64,
    seconds: f64,
    rows_per_second: f64,
    close_seconds: f64,
}

pub(super) fn run(args: &Import, output: &mut Output) -> Result<()> {
    check(args)?;
    let start = Instant::now();
    let mut importer = Importer::open(args, Interrupt::watch(output.json)?)?;
    let imported = importer.all(output);
    let seconds = start.elapsed().as_secs_f64();
    // Also after an error: what was acknowledged is durable already, closing only makes opening faster.
    let closed = importer.close();
    let stored = importer.stored;
    imported.map_err(|cause| CliError::Import { stored, cause: Box::new(cause) })?;
    closed?;
    let rows_per_second = stored as f64 / seconds.max(1e-9);
    let close_seconds = start.elapsed().as_secs_f64() - seconds;
    if output.json {
        return output.value(&Summary { rows: stored, seconds, rows_per_second, close_seconds });
    }
    let rows = counted(stored, "row", "rows");
    let summary = format!("{rows} in {seconds:.2} s ({rows_per_second:.0} rows/s)");
    if args.ack {
        // Standard output belongs to whoever counts acknowledgements.
        eprintln!("{summary}");
        return Ok(());
    }
    output.line(summary)
}

/// Notices before anything is written that a file is missing or of no known format.
fn check(args: &Import) -> Result<()> {
    if args.files.iter().filter(|path| is_stdin(path)).count() > 1 {
        return Err(CliError::Usage("standard input (-) can be read only once".to_owned()));
    }
    for path in &args.files {
        format_of(path, args.format)?;
        // Not opened yet: a pipe can be opened only once.
        if !is_stdin(path) {
            let metadata = std::fs::metadata(path).map_err(|error| CliError::file(path, &error))?;
            if metadata.is_dir() {
                return Err(CliError::file(path, &ErrorKind::IsADirectory.into()));
            }
        }
    }
    Ok(())
}

/// The rows that become one write, and where each of them came from.
#[derive(Default)]
struct Pending {
    batch: WriteBatch,
    places: Vec<(usize, Place)>,
    bytes: usize,
}

struct Importer<'a> {
    args: &'a Import,
    /// Opened at once if it exists, or else by the first write, so that a file without a good row leaves
    /// nothing behind.
    db: Option<Database>,
    collection: Option<Collection>,
    /// The dimension of the collection, or of the first row while there is none.
    dimension: Option<usize>,
    pending: Pending,
    stored: u64,
    interrupt: Interrupt,
}

/// Opens the database for much at once.
fn open(args: &Import) -> plimsoll::Result<Database> {
    Database::builder(&args.target.dir).bulk_load(true).open()
}

impl<'a> Importer<'a> {
    fn open(args: &'a Import, interrupt: Interrupt) -> Result<Self> {
        let name = &args.target.collection[..];
        let (mut db, mut collection) = (None, None);
        if exists(&args.target.dir) {
            let opened = open(args)?;
            collection = match opened.collection(name) {
                Ok(found) => Some(found),
                Err(Error::CollectionNotFound(_)) => None,
                Err(error) => return Err(error.into()),
            };
            if let (Some(found), Some(metric)) = (&collection, args.metric) {
                opened.create_collection(name, CollectionConfig::new(found.dimension(), metric))?;
            }
            interrupt.closes(&opened);
            db = Some(opened);
        }
        let dimension = collection.as_ref().map(Collection::dimension);
        Ok(Self { args, db, collection, dimension, pending: Pending::default(), stored: 0, interrupt })
    }

    fn all(&mut self, output: &mut Output) -> Result<()> {
        'files: for (file, path) in self.args.files.iter().enumerate() {
            let mut rows = open_rows(path, self.args.format)?;
            let progress = Progress::new(output.json, "importing", rows.expected());
            while let Some(row) = rows.next_row()? {
                self.push(file, row)?;
                if self.pending.places.len() == self.args.batch_size as usize {
                    progress.advance(self.pending.places.len() as u64);
                    self.write(output)?;
                }
                if self.interrupt.is_seen() {
                    break 'files;
                }
            }
        }
        if !self.pending.places.is_empty() {
            self.write(output)?;
        }
        if self.interrupt.is_seen() {
            return Err(CliError::Interrupted);
        }
        match self.collection {
            None if self.stored > 0 => {
                self.stored = 0;
                Err(self.no_collection())
            }
            _ => Ok(()),
        }
    }

    fn push(&mut self, file: usize, row: Row) -> Result<()> {
        let failed = |kind, what: String| {
            Err(InputError::new(name_of(&self.args.files[file]), row.place, kind, what).into())
        };
        match row.operation {
            Operation::Delete(key) => {
                self.pending.batch.delete(key);
            }
            Operation::Upsert(document) => {
                for posting in &document.postings {
                    let got = posting.vector.len();
                    if self.dimension.is_none() && !(1..=MAX_DIMENSION).contains(&got) {
                        let what = format!("a vector of {got} dimensions; 1 to {MAX_DIMENSION} are allowed");
                        return failed("invalid_argument", what);
                    }
                    let expected = *self.dimension.get_or_insert(got);
                    if got != expected {
                        let error = Error::DimensionMismatch { expected, got };
                        return failed("dimension_mismatch", error.to_string());
                    }
                }
                self.pending.bytes += bytes_of(&document);
                self.pending.batch.upsert(document);
            }
        }
        self.pending.places.push((file, row.place));
        if self.pending.bytes > MAX_BATCH_BYTES {
            let rows = self.pending.places.len();
            let what =
                format!("a batch of {rows} rows is larger than {MAX_BATCH_BYTES} bytes: say --batch-size");
            return failed("batch_too_large", what);
        }
        Ok(())
    }

    /// Writes what is pending, and acknowledges it.
    fn write(&mut self, output: &mut Output) -> Result<()> {
        let Pending { batch, places, .. } = std::mem::take(&mut self.pending);
        // Deletes from a collection that is not there yet have nothing to do.
        if self.collection.is_some() || self.dimension.is_some() {
            self.store(&batch, &places)?;
        }
        self.stored += places.len() as u64;
        self.interrupt.stored(self.stored);
        if self.args.ack {
            output.line(format_args!("ACK {}", self.stored))?;
            output.flush()?;
        }
        Ok(())
    }

    /// Writes a batch. If it is the first of a new collection and is refused, so is the collection.
    fn store(&mut self, batch: &WriteBatch, places: &[(usize, Place)]) -> Result<()> {
        let is_new = self.collection.is_none();
        let collection = self.collection()?;
        collection.write(batch).map(drop).map_err(|error| {
            if is_new && let Some(db) = &self.db {
                // What is reported is why; that the empty collection may stay makes it no worse.
                let _dropped = db.drop_collection(&self.args.target.collection);
            }
            self.place(error, places)
        })
    }

    /// The collection, created now if it is missing.
    fn collection(&mut self) -> Result<Collection> {
        if let Some(collection) = &self.collection {
            return Ok(collection.clone());
        }
        let name = &self.args.target.collection[..];
        let Some(dimension) = self.dimension else { return Err(self.no_collection()) };
        let db = match self.db.take() {
            Some(db) => db,
            None => open(self.args)?,
        };
        self.interrupt.closes(&db);
        let config = CollectionConfig::new(dimension, self.args.metric.unwrap_or_default());
        let collection = self.db.insert(db).create_collection(name, config)?;
        self.collection = Some(collection.clone());
        Ok(collection)
    }

    /// The input has nothing but deletes, and there is nothing that they could be from.
    fn no_collection(&self) -> CliError {
        Error::CollectionNotFound(self.args.target.collection.clone()).into()
    }

    /// Says where the row stands that the library refused.
    fn place(&self, error: Error, places: &[(usize, Place)]) -> CliError {
        let Error::InvalidDocument { operation, problem, .. } = &error else { return error.into() };
        match places.get(*operation) {
            Some(&(file, place)) => {
                InputError::new(self.name(file), place, "invalid_document", problem).into()
            }
            None => error.into(),
        }
    }

    fn name(&self, file: usize) -> String {
        self.args.files.get(file).map(PathBuf::as_path).map(name_of).unwrap_or_default()
    }

    fn close(&mut self) -> Result<()> {
        self.interrupt.release();
        if let Some(db) = self.db.take() {
            db.close()?;
        }
        Ok(())
    }
}

/// Whether there is anything at `dir`; if it can not be told, opening will say why.
fn exists(dir: &Path) -> bool {
    dir.try_exists().unwrap_or(true)
}

/// About how many bytes a document takes in the log.
fn bytes_of(document: &Document) -> usize {
    let postings: usize = document.postings.iter().map(|posting| 8 + posting.vector.len() * 4).sum();
    document.text.as_ref().map_or(0, String::len) + postings
}
