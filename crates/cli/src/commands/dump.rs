//! `plimsoll dump`: what is in a file of a database.

use serde::Serialize;

use crate::args::Dump;
use crate::error::{CliError, Result};
use crate::output::Output;

#[derive(Serialize)]
struct DumpReport<'a> {
    title: &'a str,
    fields: Vec<Field<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<&'a str>,
}

#[derive(Serialize)]
struct Field<'a> {
    name: &'a str,
    value: &'a str,
}

pub(super) fn run(args: &Dump, output: &mut Output) -> Result<()> {
    let dump = plimsoll::dump(&args.file)?;
    if output.json {
        let fields = dump.fields.iter().map(|(name, value)| Field { name, value }).collect();
        output.value(&DumpReport { title: &dump.title, fields, damage: dump.damage.as_deref() })?;
    } else {
        print(&dump, output)?;
    }
    output.flush()?;
    if dump.damage.is_some() { Err(CliError::Reported) } else { Ok(()) }
}

fn print(dump: &plimsoll::Dump, output: &mut Output) -> Result<()> {
    output.line(&dump.title)?;
    let width = dump.fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in &dump.fields {
        output.line(format_args!("  {name:width$}  {value}"))?;
    }
    dump.damage.iter().try_for_each(|damage| output.line(format_args!("damaged: {damage}")))
}
