//! The seeds of the targets: golden files, and small inputs of every shape. They are in `fuzz/seeds`, where inputs
//! that once broke a promise stay, too (`found-*`).

use std::path::{Path, PathBuf};

use plimsoll_shard::{ReadMode, SealedFile, SectionKind};
use plimsoll_sim::SimStorage;
use plimsoll_wal::format::{RECORD_HEADER_LEN, SEGMENT_HEADER_LEN};

use crate::database::{SMALL, files};

const SEGMENTS: [&[u8]; 2] =
    [include_bytes!("../../wal/tests/golden/v1-1.wal"), include_bytes!("../../wal/tests/golden/v1-2.wal")];
const SEALED: [(&str, &str, u8, &[u8]); 6] = [
    (
        "posting",
        "000000000001.posting",
        2,
        include_bytes!("../../shard/tests/golden/v2/000000000001.posting"),
    ),
    (
        "vectors",
        "000000000002.vectors",
        3,
        include_bytes!("../../shard/tests/golden/v2/000000000002.vectors"),
    ),
    (
        "vectors",
        "000000000003.vectors",
        3,
        include_bytes!("../../shard/tests/golden/v2/000000000003.vectors"),
    ),
    ("kills", "000000000004.kills", 4, include_bytes!("../../shard/tests/golden/v2/000000000004.kills")),
    ("index", "000000000005.index", 5, include_bytes!("../../shard/tests/golden/v2/000000000005.index")),
    ("index", "000000000008.index", 5, include_bytes!("../../shard/tests/golden/v2/000000000008.index")),
];
const MANIFEST: &[u8] = include_bytes!("../../engine/tests/golden/v1/manifest");
const RECORD: &[u8] = include_bytes!("../../engine/tests/golden/v1/record");

/// A seed: the target's name, its own, and its bytes.
pub type Seed = (&'static str, String, Vec<u8>);

/// Where the seeds are.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds")
}

/// All seeds but those that were found.
pub fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (number, segment) in (1..).zip(SEGMENTS) {
        seeds.push(("wal_reader", format!("golden-{number}"), [&[0], segment].concat()));
        let records = &segment[SEGMENT_HEADER_LEN as usize..];
        seeds.push(("wal_reader", format!("records-{number}"), [&[2], records].concat()));
        seeds.push(("dump", format!("segment-{number}"), [&[1, 0], segment].concat()));
    }
    for (number, (target, name, choice, bytes)) in (1..).zip(SEALED) {
        seeds.push((target, format!("golden-{number}"), [&[1], bytes].concat()));
        seeds.push((target, format!("sections-{number}"), sections(name, bytes)));
        seeds.push(("dump", format!("{target}-{number}"), [&[choice, 1], bytes].concat()));
    }
    seeds.push(("dump", "manifest".to_owned(), [&[0, 1], MANIFEST].concat()));
    seeds.push(("manifest", "golden".to_owned(), [&[1], MANIFEST].concat()));
    let manifest =
        files(&SMALL.disk).into_iter().find(|path| path.display().to_string().contains("MANIFEST"));
    let manifest = manifest.and_then(|path| SMALL.disk.bytes(path)).unwrap();
    seeds.push(("manifest", "small".to_owned(), [&[1], &manifest[..]].concat()));
    seeds.push(("log_record", "golden".to_owned(), RECORD.to_vec()));
    let segment =
        files(&SMALL.disk).into_iter().rfind(|path| path.extension().is_some_and(|ext| ext == "wal"));
    let segment = segment.and_then(|path| SMALL.disk.bytes(path)).unwrap();
    for (number, payload) in payloads(&segment).into_iter().enumerate() {
        seeds.push(("log_record", format!("small-{number}"), payload));
    }
    seeds.extend(edits());
    seeds.extend(rows());
    seeds.extend(filters());
    seeds.extend(changes());
    seeds
}

/// Every kind of line, with every kind of end, and lines that are too long.
fn changes() -> Vec<Seed> {
    let lines = [
        r#"{"line": 1, "path": "a.rs", "op": "add", "repo": "r", "content": "grüße", "size": 7, "mime": "text/rust"}"#,
        r#"{"line": 2, "path": "b", "op": "modify", "content_base64": "Z3LDvMOfZQ==", "skip_index": false}"#,
        r#"{"line": 3, "path": "c", "content_ref": "sub/c.txt", "skip_index": true}"#,
        r#"{"line": 4, "path": "a.rs", "op": "delete", "repo": "r"}"#,
        r#"{"line": 5, "repo": "r", "new_changeset": {"commit": "abc", "parent": null}}"#,
        r#"{"id": "a", "text": "to be embedded", "metadata": {"n": [1, 2.5]}}"#,
        r#"{"id": 7, "vector": [1, -0.0, 1e-40]}"#,
        r#"{"id": 7, "op": "delete"}"#,
        "src/main.rs",
        " \t",
    ];
    let text = lines.join("\n").into_bytes();
    let ends = [b"\xef\xbb\xbf", lines.join("\r\n\n").as_bytes(), b"\n\xff\xfe\r\n\r\n"].concat();
    vec![
        ("changes", "forms".to_owned(), [&[0], &text[..]].concat()),
        ("changes", "ends".to_owned(), [&[0], &ends[..]].concat()),
        ("changes", "long".to_owned(), [&[60], &ends[..]].concat()),
    ]
}

/// Every form of a filter, and nesting.
fn filters() -> Vec<Seed> {
    let forms =
        r#"lang = "en" and year >= 2000 and tag in ("a", 'b') and not (draft = true or missing exists)"#;
    let values =
        r#"a.`b c` != null or x < -1.5e-7 or x <= 18446744073709551615 or y > "\u{1F600}\n" or z in ()"#;
    let nested = format!("{}a = 1{}", "not (b = 1 or (c = 1 and ".repeat(8), "))".repeat(8));
    [("forms", forms.to_owned()), ("values", values.to_owned()), ("nested", nested)]
        .into_iter()
        .map(|(name, text)| ("filter", name.to_owned(), text.into_bytes()))
        .collect()
}

/// A golden file's sections, as the targets for sealed files take them.
fn sections(name: &str, bytes: &[u8]) -> Vec<u8> {
    let (disk, path) = (SimStorage::new(), Path::new("/").join(name));
    disk.put(&path, bytes).unwrap();
    let file = SealedFile::open_unnamed(&disk, &path, ReadMode::Owned).unwrap();
    let mut seed = vec![2];
    for section in file.sections() {
        let content = file.bytes(section, 0..section.len).unwrap();
        let is_meta = section.kind == SectionKind::META;
        let content = if is_meta { &content[..content.len() - 4] } else { content };
        seed.extend([if is_meta { 0 } else { (section.kind.0 % 100) as u8 }, section.owner as u8]);
        seed.extend((content.len() as u16).to_le_bytes());
        seed.extend(content);
    }
    seed
}

/// The payloads of a segment's commits.
fn payloads(segment: &[u8]) -> Vec<Vec<u8>> {
    let (mut payloads, mut at) = (Vec::new(), SEGMENT_HEADER_LEN as usize);
    while let Some(header) = segment.get(at..at + RECORD_HEADER_LEN) {
        let len = u32::from_le_bytes(*header.first_chunk().unwrap()) as usize;
        if header == [0; RECORD_HEADER_LEN] {
            break;
        }
        at += RECORD_HEADER_LEN;
        payloads.extend((len > 0).then(|| segment[at..at + len].to_vec()));
        at = (at + len).next_multiple_of(8);
    }
    payloads
}

/// Each kind of edit, to each file.
fn edits() -> Vec<Seed> {
    let mut seeds =
        vec![("directory", "none".to_owned(), vec![0]), ("directory", "none-indexed".to_owned(), vec![254])];
    for kind in 0..8 {
        for choice in [0, 1] {
            let edit = |file: u8| [kind, file, 100 + file, 0, 0, 0, 3, 0];
            let seed = std::iter::once(choice).chain((0..4).flat_map(|n| edit(n * 2 + kind)));
            seeds.push(("directory", format!("edit-{kind}-{choice}"), seed.collect()));
        }
    }
    seeds.push(("directory", "edit-indexed".to_owned(), [&[255][..], &[0, 3, 50, 1, 0, 0, 3, 0]].concat()));
    seeds
}

fn rows() -> Vec<Seed> {
    let lines = [
        r#"{"id": "a", "text": "grüße", "metadata": {"n": 1.5, "deep": [null, true, {"x": -7}]}, "vector": [1, -0.0, 1e-40]}"#,
        r#"{"id": 18446744073709551615, "postings": [{"start": 0, "length": 1, "vector": [0.1]}], "text": "b"}"#,
        r#"{"id": {"uuid": "67e55044-10b1-426f-9247-bb680e5fe0c8"}, "vector": [3.4e38], "op": "upsert"}"#,
        r#"{"id": {"ulid": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}, "op": "delete"}"#,
    ];
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }".to_owned() + "          \n";
    npy.extend((header.len() as u16).to_le_bytes());
    npy.extend(header.bytes());
    let numbers = [1.0_f32, -0.0, 3.5, 1e-40, 2.0, 7.0].map(f32::to_le_bytes).concat();
    npy.extend(&numbers);
    let row = |numbers: &[u8]| [&3_i32.to_le_bytes(), numbers].concat();
    let fvecs = [row(&numbers[..12]), row(&numbers[12..])].concat();
    let wide = |descr: &str, numbers: &[u8]| {
        let mut file = b"\x93NUMPY\x02\x00".to_vec();
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': (1, 2), }}\n");
        file.extend((header.len() as u32).to_le_bytes());
        [&file, header.as_bytes(), numbers].concat()
    };
    let text = lines.join("\n").into_bytes();
    vec![
        ("json_lines", "forms".to_owned(), text.clone()),
        ("npy", "f4".to_owned(), npy.clone()),
        ("npy", "f2".to_owned(), wide("<f2", &[0, 0x3C, 0, 0])),
        ("npy", "f8".to_owned(), wide("<f8", &[1.5_f64, -2.5].map(f64::to_le_bytes).concat())),
        ("fvecs", "two".to_owned(), fvecs.clone()),
        ("queries", "lines".to_owned(), [&[0], &text[..]].concat()),
        ("queries", "fvecs".to_owned(), [&[1], &fvecs[..]].concat()),
        ("queries", "npy".to_owned(), [&[2], &npy[..]].concat()),
    ]
}
