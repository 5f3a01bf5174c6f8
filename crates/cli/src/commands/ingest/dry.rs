//! `plimsoll ingest --dry-run`: what a run would do, without embedding or storing anything.

use std::collections::BTreeMap;
use std::io::BufReader;

use plimsoll::{Error, ReadOnlyDatabase};
use plimsoll_ingest::input::{Files, Parser};
use plimsoll_ingest::{EmbedderOptions, EmbedderSpec, Feed, Folder, Lines, Settings, Survey};
use serde::Serialize;

use super::stdin::Stdin;
use super::{Kind, build, listed, reasons, source_name};
use crate::args::Ingest;
use crate::error::Result;
use crate::interrupt::StopFlag;
use crate::output::{Output, counted};

/// What a run would do, for JSON.
#[derive(Serialize)]
struct DryReport {
    dry_run: bool,
    items: u64,
    documents: u64,
    texts: u64,
    passages: u64,
    text_bytes: u64,
    deletes: u64,
    unchanged: u64,
    rejected: u64,
    passed_over: BTreeMap<&'static str, u64>,
    failures: BTreeMap<&'static str, u64>,
}

/// Says what `args` would do.
pub(super) fn run(args: &Ingest, kind: &Kind, stop: &StopFlag, output: &mut Output) -> Result<()> {
    let name = source_name(args, kind);
    let collection = &args.target.collection[..];
    let (mut state, mut entries, mut next, mut chunking) = (Vec::new(), Vec::new(), 0, args.chunk);
    let mut dimension = None;
    if args.target.dir.try_exists().unwrap_or(true) {
        let db = ReadOnlyDatabase::open(&args.target.dir)?;
        let found = db
            .sources()?
            .into_iter()
            .find(|status| status.name == name && status.collection == collection && !args.restart);
        if let Some(status) = found {
            if status.is_paused {
                return Err(Error::from(plimsoll::SourceError::Paused(name)).into());
            }
            entries = db.source_entries(&name, collection)?;
            (state, next) = (status.state, status.end);
        }
        if let Ok(found) = db.collection(collection) {
            dimension = Some(found.dimension());
            let settings = Settings::of_reader(&db, collection)?;
            // As in a run, where documents that bring their vectors need no model.
            let spec = args.embed.as_ref().filter(|spec| **spec != EmbedderSpec::Given);
            if let (Some(spec), Some(settings)) = (spec, &settings) {
                settings.same_model(collection, build(spec, &EmbedderOptions::default())?.model())?;
            }
            chunking = chunking.or(settings.map(|settings| settings.chunking));
        }
    }
    let mut stdin = Some(BufReader::new(Stdin::new(stop.shared())));
    let inputs = kind.inputs(args, &mut stdin, Vec::new(), stop);
    let mut unread = 0;
    let mut feed: Box<dyn Feed> = match kind {
        Kind::Lines(_) => Box::new(Lines::resume_at(inputs, &state)?),
        Kind::Folder(path) => {
            let folder = Folder::compare_with(path, &kind.walk_options(args), &entries, next)?;
            unread = folder.unchanged();
            Box::new(folder)
        }
    };
    let parser = Parser::new(Files::below(&kind.base(args)).map_err(plimsoll_ingest::IngestError::from)?);
    let survey = Survey::of(&mut *feed, &parser, chunking.unwrap_or_default(), dimension)?;
    let (unchanged, passed_over) = reasons(&survey.passed_over);
    let report = DryReport {
        dry_run: true,
        items: survey.items,
        documents: survey.documents,
        texts: survey.texts,
        passages: survey.passages,
        text_bytes: survey.text_bytes,
        deletes: survey.deletes,
        unchanged: unread + unchanged,
        rejected: survey.rejected,
        passed_over,
        failures: survey.failures.iter().map(|(class, count)| (class.name(), *count)).collect(),
    };
    if output.json {
        return output.value(&report);
    }
    output.line(format_args!(
        "{} would be read: {} with vectors, {} to be embedded ({}), {} removed, {} with nothing to store{}, {} set aside{}; \
         {} unchanged",
        counted(report.items, "item", "items"),
        counted(report.documents, "document", "documents"),
        counted(report.texts, "text", "texts"),
        counted(report.passages, "passage", "passages"),
        report.deletes,
        report.rejected.saturating_sub(unchanged),
        listed(&report.passed_over),
        report.failures.values().sum::<u64>(),
        listed(&report.failures),
        counted(report.unchanged, "file", "files"),
    ))?;
    for (position, failure) in &survey.examples {
        output.line(format_args!("  position {position}: {}: {}", failure.class, failure.message))?;
    }
    let more = report.failures.values().sum::<u64>().saturating_sub(survey.examples.len() as u64);
    if more > 0 {
        output.line(format_args!("  and {more} more"))?;
    }
    Ok(())
}
