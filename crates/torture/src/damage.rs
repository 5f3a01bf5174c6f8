//! The layer `damage`: bits flipped, files cut, extended, zeroed, missing, exchanged and stale.
//!
//! A small database is damaged in one way at a time. Whoever reads it then gets the right answer or a typed error
//! that names a file, and damage in the files of one collection leaves the others as they were. `verify` notices
//! what readers notice. A repair gives back everything that could be read before it, nothing that was never
//! written, and a database that is sound; also one that is cut off at any of its operations, and done again.

mod repaired;
mod seen;
mod victim;

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use plimsoll_sim::SimStorage;

use crate::campaign::{Campaign, Layer};
use crate::recovery::PATH;

pub use victim::Victim;

/// One way to damage a database; files are meant by their names in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Damage {
    /// A flipped bit.
    Flip(String, u64),
    /// A file that ends at this byte.
    Cut(String, u64),
    /// A file with so many zeros after its end.
    Extend(String, u64),
    /// A file whose bytes are zeros.
    Zero(String),
    /// Files that are not there.
    Missing(Vec<String>),
    /// Two files that are in each other's place.
    Swap(String, String),
    /// A file with the bytes of another.
    Copy(String, String),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flip(file, bit) => write!(f, "flip:{file}:{bit}"),
            Self::Cut(file, len) => write!(f, "cut:{file}:{len}"),
            Self::Extend(file, by) => write!(f, "extend:{file}:{by}"),
            Self::Zero(file) => write!(f, "zero:{file}"),
            Self::Missing(files) => write!(f, "missing:{}", files.join(":")),
            Self::Swap(a, b) => write!(f, "swap:{a}:{b}"),
            Self::Copy(from, to) => write!(f, "copy:{from}:{to}"),
        }
    }
}

impl FromStr for Damage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |part: &str| part.parse::<u64>().map_err(|_| format!("{part:?} is no number"));
        Ok(match parts.as_slice() {
            ["flip", file, bit] => Self::Flip((*file).to_owned(), number(bit)?),
            ["cut", file, len] => Self::Cut((*file).to_owned(), number(len)?),
            ["extend", file, by] => Self::Extend((*file).to_owned(), number(by)?),
            ["zero", file] => Self::Zero((*file).to_owned()),
            ["missing", files @ ..] => Self::Missing(files.iter().map(|file| (*file).to_owned()).collect()),
            ["swap", a, b] => Self::Swap((*a).to_owned(), (*b).to_owned()),
            ["copy", from, to] => Self::Copy((*from).to_owned(), (*to).to_owned()),
            _ => return Err(format!("{text:?} is no damage")),
        })
    }
}

impl Damage {
    fn files(&self) -> Vec<&str> {
        match self {
            Self::Flip(file, _) | Self::Cut(file, _) | Self::Extend(file, _) | Self::Zero(file) => vec![file],
            Self::Missing(files) => files.iter().map(String::as_str).collect(),
            Self::Swap(a, b) => vec![a, b],
            Self::Copy(_, to) => vec![to],
        }
    }

    fn apply(&self, disk: &SimStorage) {
        let path = |file: &str| Path::new(PATH).join(file);
        let bytes = |file: &str| disk.bytes(path(file)).unwrap_or_else(|| panic!("there is no file {file}"));
        match self {
            Self::Flip(file, bit) => disk.flip_bit(path(file), *bit).unwrap(),
            Self::Cut(file, len) => disk.truncate(path(file), *len).unwrap(),
            Self::Extend(file, by) => disk.truncate(path(file), bytes(file).len() as u64 + by).unwrap(),
            Self::Zero(file) => disk.put(path(file), vec![0; bytes(file).len()]).unwrap(),
            Self::Missing(files) => files.iter().for_each(|file| disk.delete(path(file)).unwrap()),
            Self::Swap(a, b) => {
                let (of_a, of_b) = (bytes(a), bytes(b));
                disk.put(path(a), of_b).unwrap();
                disk.put(path(b), of_a).unwrap();
            }
            Self::Copy(from, to) => disk.put(path(to), bytes(from)).unwrap(),
        }
    }
}

/// How much is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Readers and `verify`.
    Read,
    /// A writer, too.
    Write,
    /// And a repair.
    Repair,
    /// And repairs that are cut off at each of their operations, with the seed of what a power cut leaves then.
    CutOff {
        /// The seed.
        random: u64,
    },
}

/// The damage of a campaign: every `stride`-th bit from `first` on, and everything else.
fn all(victim: &Victim, first: u64, stride: u64) -> Vec<(Damage, Depth)> {
    let mut all = Vec::new();
    let files = victim.files();
    for (number, (file, len)) in files.iter().enumerate() {
        let flips = (first % stride..len * 8).step_by(stride as usize);
        all.extend(flips.enumerate().map(|(n, bit)| {
            let depth = match n % 64 {
                0 => Depth::Repair,
                n if n % 16 == 0 => Depth::Write,
                _ => Depth::Read,
            };
            (Damage::Flip(file.clone(), bit), depth)
        }));
        let lengths = (0..*len).step_by(stride.max(1) as usize).chain([len - 1]);
        all.extend(lengths.enumerate().map(|(n, len)| {
            let depth = if n % 32 == 0 { Depth::Repair } else { Depth::Read };
            (Damage::Cut(file.clone(), len), depth)
        }));
        all.extend([1, 8, 64, 4096].map(|by| (Damage::Extend(file.clone(), by), Depth::Repair)));
        let cut_off = Depth::CutOff { random: first };
        all.push((Damage::Zero(file.clone()), cut_off));
        all.push((Damage::Missing(vec![file.clone()]), cut_off));
        all.push((Damage::Flip(file.clone(), (len * 4 + first) % (len * 8)), cut_off));
        for (other, _) in &files[number + 1..] {
            all.push((Damage::Missing(vec![file.clone(), other.clone()]), Depth::Repair));
            let together = Path::new(file).parent() == Path::new(other).parent();
            if together {
                all.push((Damage::Swap(file.clone(), other.clone()), Depth::Repair));
                all.push((Damage::Copy(file.clone(), other.clone()), Depth::Repair));
                all.push((Damage::Copy(other.clone(), file.clone()), Depth::Repair));
            }
        }
    }
    all
}

/// What the names of the cases of [`Victim::closed`] begin with.
const CLOSED: &str = "closed:";

fn run(campaign: &Campaign, first: u64, stride: u64) {
    // All that a closed database adds is that its log is empty: there some bits are enough.
    for (name, stride) in [("", stride), (CLOSED, 499)] {
        let mut victim = None;
        campaign.case(
            Layer::Damage,
            || format!("{name}none"),
            || {
                victim = Some(if name == CLOSED { Victim::closed() } else { Victim::new() });
            },
        );
        let Some(victim) = victim else { return };
        campaign.each(
            Layer::Damage,
            all(&victim, first, stride).into_iter(),
            |(damage, _)| format!("{name}{damage}"),
            |(damage, depth)| victim.check(campaign, damage, *depth),
        );
    }
}

/// A part of the bits.
pub(crate) fn matrix(campaign: &Campaign) {
    run(campaign, 0, 13);
}

/// Other bits with every seed: after 13 of them, all.
pub(crate) fn random(campaign: &Campaign, seed: u64) {
    run(campaign, seed, 13);
}

/// One damage again, with everything.
pub(crate) fn replay(campaign: &Campaign, case: &str) -> Result<String, String> {
    let (victim, damage): (_, Damage) = match case.strip_prefix(CLOSED) {
        Some(damage) => (Victim::closed(), damage.parse()?),
        None => (Victim::new(), case.parse()?),
    };
    let is_unknown = |file: &&str| victim.files().iter().all(|(name, _)| name != file);
    if let Some(unknown) = damage.files().into_iter().find(is_unknown) {
        let files: Vec<&str> = victim.files().iter().map(|(name, _)| name.as_str()).collect();
        return Err(format!("there is no file {unknown}; there are {}", files.join(", ")));
    }
    let check = || victim.check(campaign, &damage, Depth::CutOff { random: 0 });
    campaign.case(Layer::Damage, || case.to_owned(), check);
    let files = victim.files().iter().map(|(file, len)| format!("  {file}: {len} bytes\n"));
    Ok(format!("the files before the damage:\n{}", files.collect::<String>()))
}
