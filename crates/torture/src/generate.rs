//! Documents, vectors and metadata to put into a database.

use plimsoll::{CollectionConfig, Document, Key, Metadata, Metric, Value};

use crate::random::Random;

const METRICS: [Metric; 3] = [Metric::Cosine, Metric::L2, Metric::Dot];
const PARTS: [&str; 8] = ["ein ", "Schiff ", "naïve ", "海 ", "🚢", "load line ", "x", "\n"];

/// A configuration for the n-th collection.
pub fn config(random: &mut Random, n: usize) -> CollectionConfig {
    CollectionConfig::new(1 + random.below(19), METRICS[n % 3])
}

/// One of few keys of every kind, so that documents meet.
pub fn key(random: &mut Random, keys: usize) -> Key {
    let n = random.below(keys);
    match n % 5 {
        0 => Key::from(n),
        1 => Key::from(-(n as i64)),
        2 => Key::from(format!("{n}")),
        3 => Key::Uuid([n as u8; 16]),
        _ => Key::from(format!("docs/{n}/{}", "long ".repeat(n % 7))),
    }
}

/// A vector with a direction. Some components repeat, so that distances tie; lengths span two decades.
pub fn vector(random: &mut Random, dimension: usize) -> Vec<f32> {
    let scale = [0.1, 1.0, 1.0, 10.0][random.below(4)];
    let coarse = random.percent(30);
    let mut vector: Vec<f32> = (0..dimension)
        .map(|_| if coarse { random.below(5) as f32 - 2.0 } else { random.normal() * scale })
        .collect();
    if vector.iter().all(|component| component.abs() < 1e-6) {
        vector[0] = 1.0;
    }
    vector
}

fn text(random: &mut Random) -> String {
    (0..random.below(12)).map(|_| *random.pick(&PARTS)).collect()
}

fn value(random: &mut Random, depth: usize) -> Value {
    match random.below(if depth == 0 { 6 } else { 8 }) {
        0 => Value::Null,
        1 => Value::Bool(random.percent(50)),
        2 => Value::from(random.bits() as i64),
        3 => Value::from(random.bits()),
        4 => Value::Float(f64::from(random.normal()) * 1e100),
        5 => Value::from(text(random)),
        6 => Value::List((0..random.below(4)).map(|_| value(random, depth - 1)).collect()),
        _ => Value::Map(metadata_of(random, depth - 1)),
    }
}

fn metadata_of(random: &mut Random, depth: usize) -> Metadata {
    (0..random.below(4)).map(|n| (format!("field{n}"), value(random, depth))).collect()
}

/// Metadata, often none.
pub fn metadata(random: &mut Random) -> Metadata {
    if random.percent(40) { Metadata::new() } else { metadata_of(random, 2) }
}

/// A document with everything, in every combination.
pub fn document(random: &mut Random, key: Key, dimension: usize) -> Document {
    let mut document = Document::new(key);
    document.metadata = metadata(random);
    if random.percent(60) {
        document.text = Some(text(random));
    }
    let postings = if random.percent(70) { 1 } else { 1 + random.below(5) };
    for _ in 0..postings {
        let (start, length) = match &document.text {
            Some(text) => range(random, text),
            None => (random.below(1000) as u32, random.below(1000) as u32),
        };
        document = document.posting(start, length, vector(random, dimension));
    }
    document
}

/// A range on character boundaries.
fn range(random: &mut Random, text: &str) -> (u32, u32) {
    let boundaries: Vec<usize> = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect();
    let (a, b) = (*random.pick(&boundaries), *random.pick(&boundaries));
    (a.min(b) as u32, a.abs_diff(b) as u32)
}
