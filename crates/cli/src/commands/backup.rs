//! `plimsoll backup`: a copy of a database that opens like any other.

use std::time::Duration;

use plimsoll::{BackupStats, Error, JobOutcome, JobRequest};
use serde::Serialize;

use crate::args::Backup;
use crate::error::Result;
use crate::output::Output;
use crate::progress::Progress;

#[derive(Serialize)]
struct Report {
    job: u64,
    files: u64,
    bytes: u64,
    lsn: u64,
    seconds: f64,
}

/// How often the progress is looked at.
const LOOK: Duration = Duration::from_millis(100);

pub(super) fn run(args: &Backup, output: &mut Output) -> Result<()> {
    let db = super::writer(&args.dir.dir)?;
    let job = db.start(JobRequest::backup(&args.to))?;
    let progress = Progress::bytes(output.json, "copying");
    let outcome = loop {
        match job.wait_for(LOOK) {
            Err(Error::JobTimeout { .. }) => {
                let (done, total) = job.progress();
                progress.reach(done, total);
            }
            ended => break ended?,
        }
    };
    drop(progress);
    db.close()?;
    let stats = match outcome {
        JobOutcome::Backup(stats) => stats,
        _ => BackupStats::default(),
    };
    let BackupStats { files, bytes, lsn, total, .. } = stats;
    let report = Report { job: job.id().0, files, bytes, lsn: lsn.0, seconds: total.as_secs_f64() };
    output.either(&report, format_args!("job {}: {stats}", job.id()))
}
