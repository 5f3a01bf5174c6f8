//! Each target over its seeds and a fixed set of mutations of them, and in bounded memory.
//!
//! `PLIMSOLL_MUTATIONS` says how many mutations each target gets, instead of the number here.

#![allow(clippy::unwrap_used, clippy::panic, clippy::allow_attributes, reason = "these are tests")]

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

use peak_alloc::PeakAlloc;
use plimsoll_hostile::{TARGETS, Target, seeds};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// The seeds of a target, by name: those that are written, and those that were found.
fn seeds_of(target: &Target) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(seeds::directory().join(target.name)).unwrap();
    let mut seeds: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect();
    seeds.sort();
    seeds
}

/// Numbers that look random and are always the same (splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) as usize
    }

    fn below(&mut self, end: usize) -> usize {
        self.next() % end.max(1)
    }
}

/// Up to four changes: bits, bytes, numbers, parts cut out, repeated, or taken from `other`.
fn mutate(seed: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        let end = (at + 1 + numbers.below(16)).min(bytes.len());
        match numbers.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << numbers.below(8),
            1 if !bytes.is_empty() => bytes[at] = numbers.next() as u8,
            2 if at + 4 <= bytes.len() => {
                let value = [0, 1, u32::MAX, 0x7FFF_FFFF, 0x8000_0000, 0x1_0000][numbers.below(6)];
                bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            }
            3 => drop(bytes.drain(at..end)),
            4 => {
                let part = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, part));
            }
            5 => {
                let from = numbers.below(other.len());
                let to = (from + 1 + numbers.below(64)).min(other.len());
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// What one test takes of the memory of the process, the other one would measure.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn no_target_breaks_a_promise() {
    let _alone = alone();
    let asked = std::env::var("PLIMSOLL_MUTATIONS").ok().map(|text| text.parse::<usize>().unwrap());
    let mut broken = Vec::new();
    for target in TARGETS {
        let seeds = seeds_of(&target);
        assert!(!seeds.is_empty(), "{} has no seeds", target.name);
        // What is made once, is made before memory is measured.
        seeds.iter().for_each(|(_, seed)| (target.run)(seed));
        let mut numbers = Numbers(1);
        let mut most = 0;
        let mut check = |name: &str, input: &[u8]| {
            let before = MEMORY.current_usage();
            MEMORY.reset_peak_usage();
            let result = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
            let taken = MEMORY.peak_usage().saturating_sub(before);
            let (each, least) = target.memory;
            let allowed = each * input.len() + least;
            let what = format!("{} on a mutation of {name}: {}", target.name, input.escape_ascii());
            if result.is_err() {
                broken.push(what);
            } else if taken > allowed {
                broken.push(format!("{taken} bytes of memory, {allowed} are allowed; {what}"));
            }
            most = most.max(taken);
        };
        let is_database = ["manifest", "log_record", "directory"].contains(&target.name);
        let mutations = asked.unwrap_or(if is_database { 300 } else { 3000 });
        seeds.iter().for_each(|(name, seed)| check(name, seed));
        for _ in 0..mutations {
            let (name, seed) = &seeds[numbers.below(seeds.len())];
            let (_, other) = &seeds[numbers.below(seeds.len())];
            check(name, &mutate(seed, other, &mut numbers));
        }
        println!(
            "{:12} {} seeds, {mutations} mutations, at most {most} bytes of memory",
            target.name,
            seeds.len()
        );
    }
    assert!(broken.is_empty(), "{} broken promises:\n{}", broken.len(), broken.join("\n"));
}

/// What the program writes is what is there.
#[test]
fn seeds_are_as_the_program_writes_them() {
    let _alone = alone();
    for (target, name, seed) in seeds::all() {
        let path = seeds::directory().join(target).join(&name);
        assert!(
            fs::read(&path).is_ok_and(|found| found == seed),
            "{target}/{name}: cargo run -p plimsoll-hostile"
        );
    }
}
