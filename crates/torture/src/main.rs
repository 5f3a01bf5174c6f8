//! The `plimsoll-torture` program: does to a database what it must survive, and counts what it did.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser as _;
use plimsoll_torture::counters::Counters;
use plimsoll_torture::{Campaign, Layer};

use crate::args::{Command, Torture};

mod args;
mod kernel;
mod mutants;

fn main() -> ExitCode {
    let Torture { json, command } = Torture::parse();
    let campaign = match command {
        Command::PowerCuts(args) => return kernel::power_cuts(&args),
        Command::SmallDisks(args) => return kernel::small_disks(&args),
        Command::Limits(args) => return kernel::limits(&args),
        Command::Churn(args) => return kernel::churn(&args),
        Command::Mutants { list, names } => return mutants::run(list, &names),
        Command::Matrix { layers } => matrix(&chosen(layers)),
        Command::Long { minutes, seed, layers } => {
            long(&chosen(layers), Duration::from_secs_f64(minutes * 60.0), seed)
        }
        Command::Replay { cases } => match replay(&cases) {
            Ok(campaign) => campaign,
            Err(why) => {
                eprintln!("error: {why}");
                return ExitCode::from(2);
            }
        },
    };
    if json {
        println!("{}", as_json(&campaign.counters));
    } else {
        print!("{}", as_table(&campaign.counters));
    }
    if campaign.counters.violations.get() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn chosen(layers: Vec<Layer>) -> Vec<Layer> {
    if layers.is_empty() { Layer::ALL.to_vec() } else { layers }
}

fn matrix(layers: &[Layer]) -> Campaign {
    let campaign = Campaign::new().aloud();
    for layer in layers {
        layer.matrix(&campaign);
        eprintln!("{layer} done: {}", progress(&campaign));
    }
    campaign
}

fn long(layers: &[Layer], time: Duration, seed: u64) -> Campaign {
    let campaign = Campaign::new().aloud().for_time(time);
    let mut said = Instant::now();
    for seed in seed.. {
        for layer in layers {
            layer.random(&campaign, seed);
        }
        if campaign.is_over() {
            break;
        }
        if said.elapsed() > Duration::from_secs(60) {
            eprintln!("seed {seed}: {}", progress(&campaign));
            said = Instant::now();
        }
    }
    campaign
}

fn replay(cases: &[String]) -> Result<Campaign, String> {
    let campaign = Campaign::new().aloud();
    for case in cases {
        let (layer, case) = case.split_once(':').ok_or_else(|| format!("{case:?} is no LAYER:CASE"))?;
        let layer: Layer = layer.parse()?;
        println!("{}", layer.replay(&campaign, case)?);
    }
    Ok(campaign)
}

fn progress(campaign: &Campaign) -> String {
    let counters = &campaign.counters;
    format!(
        "{} crash states, {} distinct, {} model operations, {} violations",
        counters.crash_states.get(),
        counters.distinct_states(),
        counters.model_operations.get(),
        counters.violations.get()
    )
}

fn as_table(counters: &Counters) -> String {
    let mut lines: Vec<String> =
        counters.rows().iter().map(|(label, count)| format!("{label:<28}{count:>12}\n")).collect();
    let seconds = counters.seconds();
    lines.extend(seconds.iter().map(|(layer, time)| format!("seconds of {layer:<17}{time:>12.1}\n")));
    lines.extend(counters.faults().iter().map(|(fault, count)| format!("fault {fault:<22}{count:>12}\n")));
    lines.concat()
}

fn as_json(counters: &Counters) -> serde_json::Value {
    let rows: serde_json::Map<String, serde_json::Value> =
        counters.rows().into_iter().map(|(label, count)| (label.replace(' ', "_"), count.into())).collect();
    serde_json::json!({ "counters": rows, "faults": counters.faults(), "seconds": counters.seconds() })
}
