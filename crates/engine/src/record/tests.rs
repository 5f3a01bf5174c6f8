use std::path::Path;

use plimsoll_base::{CollectionId, Metric};

use super::*;
use crate::batch::WriteBatch;
use crate::model::Document;
use crate::options::CollectionConfig;

fn payload() -> Vec<u8> {
    let (cosine, dot) = (CollectionConfig::new(2, Metric::Cosine), CollectionConfig::new(3, Metric::Dot));
    let (mut first, mut second) = (WriteBatch::new(), WriteBatch::new());
    first.upsert(Document::new(7).text("häuser").metadata("n", 1.5).vector([3.0, 4.0]));
    first.delete("gone");
    first.upsert(Document::new("two").text("abcdef").posting(0, 3, [1.0, 0.0]).posting(3, 3, [0.0, -0.5]));
    second.upsert(Document::new(crate::model::Key::Uuid([9; 16])).vector([0.0, 0.0, 0.0]));
    let batches = [(CollectionId(1), &cosine, &first), (CollectionId(2), &dot, &second)];
    prepare(&batches, None).unwrap().record.payload().to_vec()
}

#[test]
fn the_golden_record_of_format_1_reads_and_writes_as_ever() {
    let golden: &[u8] = include_bytes!("../../tests/golden/v1/record");
    assert_eq!(payload(), golden);
    let groups = decode(golden, Path::new("golden")).unwrap();
    assert_eq!(groups.len(), 2);
    assert_eq!(groups[0].operations.len(), 3);
    assert_eq!(groups[0].norms.len(), 3 * 4);
    assert_eq!(&golden[groups[0].vectors.clone()][..8], bytemuck::bytes_of(&[3.0_f32, 4.0]));
    assert_eq!(&golden[groups[0].norms.clone()][..4], bytemuck::bytes_of(&5.0_f32));
    assert!(matches!(groups[0].operations[1].kind, OperationKind::Delete));
    assert_eq!(groups[1].operations[0].index, 3);
}

#[test]
fn vectors_by_themselves_are_encoded_as_documents_with_nothing_else() {
    let config = CollectionConfig::new(2, Metric::Cosine);
    let (mut documents, mut vectors) = (WriteBatch::new(), WriteBatch::with_capacity(3));
    for (key, vector) in [(7, [1.0, 2.0]), (8, [0.5, 0.5])] {
        documents.upsert(Document::new(key).vector(vector));
        vectors.upsert_vector(key, &vector);
    }
    documents.delete(9);
    vectors.delete(9);
    let payload = |batch: &WriteBatch| {
        prepare(&[(CollectionId(1), &config, batch)], None).map(|prepared| prepared.record)
    };
    assert_eq!(payload(&vectors).unwrap().payload(), payload(&documents).unwrap().payload());
    vectors.upsert_vector("late", &[1.0, f32::NAN]);
    let error = payload(&vectors).unwrap_err().to_string();
    assert!(error.contains("operation 3") && error.contains("late") && error.contains("NaN"), "{error}");
    vectors.clear();
    assert!(vectors.is_empty() && vectors.bytes() == 0);
    vectors.upsert_vector(1, &[1.0]);
    assert!(matches!(payload(&vectors), Err(crate::Error::DimensionMismatch { expected: 2, got: 1 })));
}

#[test]
#[cfg_attr(miri, ignore = "minutes: thousands of payloads")]
fn every_truncation_and_every_changed_byte_is_decoded_or_refused_without_a_panic() {
    let payload = payload();
    for end in 0..payload.len() {
        assert!(decode(&payload[..end], Path::new("f")).is_err(), "cut at {end}");
    }
    for at in 0..payload.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut changed = payload.clone();
            changed[at] = value;
            // Checksums guard against this; the decoder must not rely on them for its own safety.
            if let Ok(groups) = decode(&changed, Path::new("f")) {
                assert!(groups.iter().all(|group| group.vectors.end <= changed.len()));
            }
        }
    }
}

#[test]
#[ignore = "writes the golden file; only for a new format version"]
fn write_the_golden_record() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("record"), payload()).unwrap();
}
