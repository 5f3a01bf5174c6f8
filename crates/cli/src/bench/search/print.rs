//! The tables of `plimsoll bench search`.

use std::time::Duration;

use comfy_table::Table;

use super::super::measure::table;
use super::measured::Summary;
use super::{Bandwidth, Report};
use crate::error::Result;
use crate::output::{Output, bytes, duration};

pub(super) fn print(report: &Report, output: &mut Output) -> Result<()> {
    if output.json {
        return output.value(report);
    }
    let (queries, k, documents) = (report.queries, report.k, report.documents);
    output
        .line(format_args!("{queries} queries, k = {k}, {documents} documents, one thread, one at a time"))?;
    if let Some(preload) = report.preload {
        let took = duration(Duration::from_secs_f64(preload.seconds));
        output.line(format_args!("{} brought into memory in {took}", bytes(preload.bytes)))?;
    }
    output.line(curve(&report.settings))?;
    let extra = [stages(report), byte_limit(report), threads(report), batches(report), cold(report)];
    for (table, note) in extra.into_iter().flatten() {
        output.line(format_args!("\n{table}"))?;
        if let Some(note) = note {
            output.line(note)?;
        }
    }
    let Some(Bandwidth { stream, exact, share }) = &report.bandwidth else { return Ok(()) };
    output.line(format_args!(
        "exact search reads {:.1} GB/s; one core reads memory at {:.1} GB/s in this run: {:.0} %",
        exact / 1e9,
        stream / 1e9,
        share * 100.0
    ))
}

/// A table, and what is to be said below it; nothing where that was not asked for.
type Part = Option<(Table, Option<String>)>;

fn curve(settings: &[Summary]) -> Table {
    let mut table = table([
        "setting",
        "recall",
        "p50 µs",
        "p99 µs",
        "QPS",
        "lists",
        "codes",
        "re-ranked",
        "refined",
        "measured",
        "CPU/wall",
    ]);
    for setting in settings {
        table.add_row([
            setting.name(),
            setting.recall.map_or("-".to_owned(), |recall| format!("{recall:.4}")),
            format!("{:.1}", setting.p50_us),
            format!("{:.1}", setting.p99_us),
            format!("{:.0}", setting.qps),
            format!("{:.1}", setting.touched.lists),
            format!("{:.0}", setting.touched.codes),
            format!("{:.1}", setting.touched.reranked),
            format!("{:.1}", setting.touched.refined),
            format!("{:.1}", setting.touched.measured),
            format!("{:.2}", setting.cpu_over_wall),
        ]);
    }
    table
}

/// A table of the settings that have something, one row each.
fn part<T, const N: usize>(
    report: &Report,
    headings: [&str; N],
    of: impl Fn(&Summary) -> Option<T>,
    row: impl Fn(T) -> Vec<String>,
) -> Option<Table> {
    let mut table = table(headings);
    for setting in &report.settings {
        if let Some(figures) = of(setting) {
            table.add_row(std::iter::once(setting.name()).chain(row(figures)));
        }
    }
    (!table.is_empty()).then_some(table)
}

fn stages(report: &Report) -> Part {
    let headings = ["stages, µs", "memtables", "prepare", "route", "scan", "re-rank", "measure", "collect"];
    let row = |mut stages: super::measured::StagesUs| -> Vec<String> {
        stages.all().map(|stage| format!("{stage:.1}")).into()
    };
    Some((part(report, headings, |setting| setting.touched.stages_us, row)?, None))
}

fn byte_limit(report: &Report) -> Part {
    let headings = ["byte limit", "reads", "limit µs", "p50 µs", "share"];
    let table = part(
        report,
        headings,
        |setting| setting.more.byte_limit,
        |share| {
            vec![
                bytes(share.bytes as u64),
                format!("{:.1}", share.limit_us),
                format!("{:.1}", share.measured_us),
                format!("{:.0} %", share.share * 100.0),
            ]
        },
    )?;
    Some((table, report.rates.as_ref().map(super::Rates::text)))
}

fn threads(report: &Report) -> Part {
    let headings = ["threads", "number", "QPS", "one thread", "ratio", "p50 µs", "p99 µs", "CPU/wall"];
    let table = part(
        report,
        headings,
        |setting| setting.more.threads.clone(),
        |threads| {
            vec![
                threads.threads.to_string(),
                format!("{:.0}", threads.qps),
                format!("{:.0}", threads.one_thread_qps),
                format!("{:.2}", threads.ratio),
                format!("{:.1}", threads.p50_us),
                format!("{:.1}", threads.p99_us),
                format!("{:.2}", threads.cpu_over_wall),
            ]
        },
    )?;
    Some((table, None))
}

fn batches(report: &Report) -> Part {
    let headings = ["batches", "of", "single QPS", "one thread", "ratio", "all cores", "ratio"];
    let table = part(
        report,
        headings,
        |setting| setting.more.batches.clone(),
        |batches| {
            vec![
                batches.batch.to_string(),
                format!("{:.0}", batches.single_qps),
                format!("{:.0}", batches.one_thread_qps),
                format!("{:.2}", batches.one_thread_ratio),
                format!("{:.0}", batches.all_cores_qps),
                format!("{:.2}", batches.all_cores_ratio),
            ]
        },
    )?;
    Some((table, None))
}

fn cold(report: &Report) -> Part {
    let mut table = table([
        "cold",
        "queries",
        "p50 µs",
        "p99 µs",
        "major faults",
        "minor",
        "from disk a query",
        "one by one/first",
    ]);
    let mut page_us = 0.0;
    for setting in &report.settings {
        let Some(cold) = &setting.more.cold else { continue };
        page_us = cold.page_us;
        let overlap = format!("{:.2}", cold.overlap);
        for (which, figures, overlap) in [
            ("first", &cold.first, overlap),
            ("first hundred", &cold.hundred, String::new()),
            ("all in turn", &cold.following, String::new()),
            ("once more", &cold.again, String::new()),
        ] {
            table.add_row([
                format!("{}, {which}", setting.name()),
                figures.queries.to_string(),
                format!("{:.0}", figures.p50_us),
                format!("{:.0}", figures.p99_us),
                format!("{:.1}", figures.major_faults),
                format!("{:.1}", figures.minor_faults),
                bytes(figures.disk_bytes as u64),
                overlap,
            ]);
        }
    }
    let note = format!(
        "first: the first query after each of several openings, with no file in memory; the others: queries in turn after one \
         opening. one by one: what the major faults of a first query would take if each waited for one page ({page_us:.0} µs)."
    );
    (!table.is_empty()).then_some((table, Some(note)))
}
