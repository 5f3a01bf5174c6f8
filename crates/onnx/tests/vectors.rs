//! What comes out of a model's directory: vectors that were computed otherwise, too, and failures that name the file.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

use std::fs;
use std::path::{Path, PathBuf};

use plimsoll_ingest::{Embedder, Failure, FailureClass, TextKind};
use plimsoll_onnx::OnnxEmbedder;
use prost::Message;
use serde::Deserialize;
use tract_onnx::pb::{
    GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_shape_proto, type_proto,
};

fn model(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(name)
}

fn open(directory: &Path) -> OnnxEmbedder {
    OnnxEmbedder::open(directory).unwrap()
}

fn passages(embedder: &OnnxEmbedder, texts: &[&str]) -> Vec<Vec<f32>> {
    embedder.embed(texts, TextKind::Passage).unwrap().into_iter().map(Result::unwrap).collect()
}

fn assert_near(left: &[f32], right: &[f64], what: &str) {
    assert_eq!(left.len(), right.len(), "{what}");
    for (left, right) in left.iter().zip(right) {
        assert!((f64::from(*left) - right).abs() < 1e-6, "{what}: {left} is not {right}");
    }
}

/// A copy of a model's directory, of the same name, that a test may change.
struct Copy {
    _parent: tempfile::TempDir,
    directory: PathBuf,
}

impl Copy {
    fn of(name: &str) -> Self {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join(name);
        fs::create_dir_all(directory.join("1_Pooling")).unwrap();
        for file in ["model.onnx", "tokenizer.json"] {
            fs::copy(model(name).join(file), directory.join(file)).unwrap();
        }
        Self { _parent: parent, directory }
    }

    fn with(self, file: &str, contents: impl AsRef<[u8]>) -> Self {
        fs::write(self.directory.join(file), contents).unwrap();
        self
    }

    /// With a network that was changed.
    fn changed(self, change: impl FnOnce(&mut ModelProto)) -> Self {
        let path = self.directory.join("model.onnx");
        let mut proto = ModelProto::decode(&fs::read(&path).unwrap()[..]).unwrap();
        change(&mut proto);
        self.with("model.onnx", proto.encode_to_vec())
    }

    /// With a tokenizer that was changed.
    fn tokenizer(self, change: impl FnOnce(&mut serde_json::Value)) -> Self {
        let text = fs::read(self.directory.join("tokenizer.json")).unwrap();
        let mut json = serde_json::from_slice(&text).unwrap();
        change(&mut json);
        self.with("tokenizer.json", json.to_string())
    }

    fn open(&self) -> OnnxEmbedder {
        open(&self.directory)
    }

    /// The failure to open it, which must name the file and say why.
    fn refused(&self, file: &str, why: &str) -> Failure {
        let failure = OnnxEmbedder::open(&self.directory).unwrap_err();
        let path = self.directory.join(file);
        assert!(failure.message.starts_with(&path.display().to_string()), "{failure}");
        assert!(failure.message.contains(why), "{failure}");
        failure
    }
}

fn weight<'a>(proto: &'a mut ModelProto, name: &str) -> &'a mut TensorProto {
    let graph = proto.graph.as_mut().unwrap();
    graph.initializer.iter_mut().find(|weight| weight.name == name).unwrap()
}

/// The numbers of the model `table`, as its script makes them.
fn row(token: usize) -> [f64; 4] {
    [0, 1, 2, 3].map(|j| (((7 * token + 3 * j) % 11) as f64 - 5.0) / 4.0)
}

/// The vector that the model `table` gives to these tokens.
fn by_hand(tokens: &[usize]) -> Vec<f64> {
    let kind = [0.5, 0.25, 0.0, -0.25];
    let matrix = [[1.0, 0.0, 2.0], [0.0, 1.0, -1.0], [1.0, 1.0, 0.0], [-1.0, 0.0, 0.5]];
    let mut mean = [0.0; 3];
    for token in tokens {
        let row = row(*token);
        for (column, sum) in mean.iter_mut().enumerate() {
            *sum += (0..4).map(|j| (row[j] + kind[j]) * matrix[j][column]).sum::<f64>() / tokens.len() as f64;
        }
    }
    let length = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
    mean.iter().map(|x| x / length).collect()
}

/// Texts with their tokens: `[CLS]` is 2, `[SEP]` 3, what is unknown 1, `##s` 12.
const TOKENS: [(&str, &[usize]); 5] = [
    ("The ships", &[2, 14, 5, 12, 3]),
    ("", &[2, 3]),
    ("deep water, deep line.", &[2, 8, 7, 1, 8, 6, 15, 3]),
    ("bread", &[2, 9, 3]),
    (
        "salt salt salt salt salt salt salt salt salt salt salt flour",
        &[2, 10, 10, 10, 10, 10, 10, 10, 10, 10, 10, 3],
    ),
];

#[test]
fn vectors_are_the_means_of_the_states_of_tokens_in_unit_length() {
    let embedder = open(&model("table"));
    assert_eq!(embedder.dimension(), Ok(3));
    let texts = TOKENS.map(|(text, _)| text);
    for ((text, tokens), vector) in TOKENS.iter().zip(passages(&embedder, &texts)) {
        assert_near(&vector, &by_hand(tokens), text);
    }
}

#[derive(Deserialize)]
struct Expected {
    text: String,
    mean: Vec<f64>,
    first: Vec<f64>,
}

fn expected() -> Vec<Expected> {
    serde_json::from_slice(&fs::read(model("bert").join("expected.json")).unwrap()).unwrap()
}

#[test]
fn a_layer_of_bert_gives_what_the_reference_evaluator_gives() {
    let expected = expected();
    assert!(expected.len() > 5);
    let texts: Vec<&str> = expected.iter().map(|of| of.text.as_str()).collect();
    for (of, vector) in expected.iter().zip(passages(&open(&model("bert")), &texts)) {
        assert_near(&vector, &of.mean, &of.text);
    }
    let pooling = r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#;
    let first = Copy::of("bert").with("1_Pooling/config.json", pooling);
    for (of, vector) in expected.iter().zip(passages(&first.open(), &texts)) {
        assert_near(&vector, &of.first, &of.text);
    }
}

/// Texts of 0 to 9 words, more than are cut into tokens at once, in no order.
fn many() -> Vec<String> {
    let words = ["the", "hull", "of", "a", "ship", "bread", "salt", "lines", "water", "deep"];
    let text = |i: usize| (0..i * 7 % 10).map(|j| words[(i + j * j) % 10]).collect::<Vec<_>>().join(" ");
    (0..150).map(text).collect()
}

#[test]
fn a_vector_does_not_depend_on_the_texts_beside_it() {
    let embedder = open(&model("bert"));
    let texts = many();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let together = passages(&embedder, &texts);
    assert_eq!(together.len(), texts.len());
    for (text, vector) in texts.iter().zip(&together) {
        let alone: Vec<f64> = passages(&embedder, &[text])[0].iter().map(|x| f64::from(*x)).collect();
        assert_near(vector, &alone, text);
    }
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let texts = many();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let embedder = open(&model("bert"));
    let bits = |embedder: &OnnxEmbedder| -> Vec<Vec<u32>> {
        passages(embedder, &texts).iter().map(|v| v.iter().map(|x| x.to_bits()).collect()).collect()
    };
    let first = bits(&embedder);
    assert_eq!(bits(&open(&model("bert"))), first, "opened once more");
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(|| bits(&embedder))).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), first, "in several threads at once");
        }
    });
}

#[test]
fn texts_are_cut_at_the_length_that_is_said() {
    let words = "bread salt flour water deep line ship hull a the bread salt";
    let start = |count: usize| words.split(' ').take(count).collect::<Vec<_>>().join(" ");
    let same = |embedder: &OnnxEmbedder, left: &str, right: &str| {
        let vectors = passages(embedder, &[left, right]);
        vectors[0] == vectors[1]
    };
    let embedder = open(&model("bert"));
    assert_eq!(embedder.truncated(), Some(0));
    assert!(same(&embedder, words, &start(10)), "twelve tokens, two of which are special");
    assert!(!same(&embedder, words, &start(9)));
    assert_eq!(embedder.truncated(), Some(2), "the text of twelve words, twice; ten words fit");
    let shorter = Copy::of("bert").with("sentence_bert_config.json", r#"{"max_seq_length": 8}"#);
    assert!(same(&shorter.open(), words, &start(6)));
    assert!(!same(&shorter.open(), words, &start(5)));
}

#[test]
fn an_empty_text_has_the_vector_of_the_special_tokens_and_without_any_is_blamed_alone() {
    let empty = passages(&open(&model("table")), &["", "  \n"]);
    for vector in empty {
        assert_near(&vector, &by_hand(&[2, 3]), "no words");
    }
    let bare = Copy::of("table").tokenizer(|json| json["post_processor"] = serde_json::Value::Null).open();
    let results = bare.embed(&["bread", "", "ship"], TextKind::Passage).unwrap();
    assert_near(results[0].as_ref().unwrap(), &by_hand(&[9]), "bread");
    assert_near(results[2].as_ref().unwrap(), &by_hand(&[5]), "ship");
    let failure = results[1].as_ref().unwrap_err();
    assert_eq!(failure.class, FailureClass::Validation);
    assert!(failure.message.contains("tokenizer.json finds no token in the text"), "{failure}");
}

#[test]
fn prompts_are_put_before_texts_of_their_kind() {
    let prompts = r#"{"prompts": {"query": "deep water ", "passage": "bread "}}"#;
    let embedder = Copy::of("bert").with("config_sentence_transformers.json", prompts).open();
    let plain = open(&model("bert"));
    let of = |kind| embedder.embed(&["ship"], kind).unwrap().remove(0).unwrap();
    assert_eq!(of(TextKind::Query), passages(&plain, &["deep water ship"])[0]);
    assert_eq!(of(TextKind::Passage), passages(&plain, &["bread ship"])[0]);
}

#[test]
fn a_model_is_known_by_its_directory_and_everything_that_decides_its_vectors() {
    let name = open(&model("table")).model().to_owned();
    let bytes = fs::read(model("table").join("model.onnx")).unwrap();
    let hash = blake3::hash(&bytes).to_hex();
    assert!(name.starts_with(&format!("table#{}+", &hash[..16])), "{name}");
    assert_eq!(Copy::of("table").open().model(), name, "the place does not matter");
    let mut tokenizer = fs::read(model("table").join("tokenizer.json")).unwrap();
    tokenizer.push(b'\n');
    let pooling = r#"{"pooling_mode_cls_token": true}"#;
    let prompts = r#"{"prompts": {"query": "query: "}}"#;
    let mut names = vec![
        name,
        open(&model("bert")).model().to_owned(),
        Copy::of("table").changed(|proto| proto.doc_string = "another".into()).open().model().to_owned(),
        Copy::of("table").with("tokenizer.json", tokenizer).open().model().to_owned(),
        Copy::of("table").with("1_Pooling/config.json", pooling).open().model().to_owned(),
        Copy::of("table")
            .with("sentence_bert_config.json", r#"{"max_seq_length": 8}"#)
            .open()
            .model()
            .to_owned(),
        Copy::of("table").with("config_sentence_transformers.json", prompts).open().model().to_owned(),
    ];
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "{names:?}");
}

#[test]
fn a_network_that_gives_vectors_itself_is_believed() {
    // Its vector is the state of the last token but one in a row of at least two, which no pooling would give.
    let pools = Copy::of("table").changed(|proto| {
        let graph = proto.graph.as_mut().unwrap();
        let mut at =
            TensorProto { name: "at".into(), data_type: 7, int64_data: vec![1], ..Default::default() };
        at.dims = Vec::new();
        graph.initializer.push(at);
        let mut gather = NodeProto { op_type: "Gather".into(), name: "pick".into(), ..Default::default() };
        gather.input = vec!["last_hidden_state".into(), "at".into()];
        gather.output = vec!["sentence_embedding".into()];
        let mut axis = tract_onnx::pb::AttributeProto { name: "axis".into(), i: 1, ..Default::default() };
        axis.r#type = 2;
        gather.attribute = vec![axis];
        graph.node.push(gather);
        let mut output = graph.output[0].clone();
        output.name = "sentence_embedding".into();
        output.r#type = None;
        graph.output.push(output);
    });
    // What would be refused of the states of tokens does not matter here.
    let embedder = pools.with("modules.json", r#"[{"type": "a.Dense"}]"#).open();
    let vectors = passages(&embedder, &["bread", "", "ship line"]);
    for (vector, second) in vectors.iter().zip([9, 3, 5]) {
        assert_near(vector, &by_hand(&[second]), "the second token's state");
    }
}

#[test]
fn a_network_without_a_mask_sees_no_padding() {
    let keep = |name: &str| name == "input_ids";
    let copy = Copy::of("table").changed(|proto| {
        let graph = proto.graph.as_mut().unwrap();
        graph.input.retain(|input| keep(&input.name));
        graph.node.retain(|node| node.output[0] != "kinds");
        let sum = graph.node.iter_mut().find(|node| node.output[0] == "sum").unwrap();
        sum.input = vec!["rows".into(), "kind".into()];
        let kind = weight(proto, "types");
        kind.name = "kind".into();
        kind.dims = vec![4];
        kind.raw_data.truncate(16);
    });
    let texts = TOKENS.map(|(text, _)| text);
    for ((text, tokens), vector) in TOKENS.iter().zip(passages(&copy.open(), &texts)) {
        assert_near(&vector, &by_hand(tokens), text);
    }
}

#[test]
fn a_text_whose_numbers_are_not_finite_is_blamed_alone() {
    for number in [f32::NAN, f32::INFINITY] {
        let copy = Copy::of("table").changed(|proto| {
            // The row of `bread`.
            weight(proto, "table").raw_data[9 * 16..9 * 16 + 4].copy_from_slice(&number.to_le_bytes());
        });
        let embedder = copy.open();
        let results = embedder.embed(&["ship", "salt bread", "water", "bread"], TextKind::Passage).unwrap();
        for (result, is_good) in results.iter().zip([true, false, true, false]) {
            match result {
                Ok(vector) => assert!(is_good && vector.iter().all(|x| x.is_finite())),
                Err(failure) => {
                    assert!(!is_good && failure.class == FailureClass::Validation);
                    assert!(failure.message.contains("model.onnx"), "{failure}");
                }
            }
        }
    }
}

#[test]
fn a_text_that_is_longer_than_the_network_takes_is_blamed_alone() {
    // The network has 16 positions, and 32 tokens are allowed.
    let embedder = Copy::of("bert").with("sentence_bert_config.json", r#"{"max_seq_length": 32}"#).open();
    let long = "bread ".repeat(15);
    let results = embedder.embed(&["ship", &long, "deep water", &long[..14 * 6]], TextKind::Passage).unwrap();
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, true]);
    let failure = results[1].as_ref().unwrap_err();
    assert_eq!(failure.class, FailureClass::Validation);
    assert!(failure.message.contains("model.onnx can not be run on 17 tokens"), "{failure}");
}

#[test]
fn missing_files_are_named() {
    for file in ["model.onnx", "tokenizer.json"] {
        let copy = Copy::of("table");
        fs::remove_file(copy.directory.join(file)).unwrap();
        assert_eq!(copy.refused(file, "can not be read").class, FailureClass::FileSystem);
        fs::create_dir(copy.directory.join(file)).unwrap();
        assert_eq!(copy.refused(file, "can not be read").class, FailureClass::FileSystem);
    }
    let nowhere = OnnxEmbedder::open(Path::new("no/such/directory")).unwrap_err();
    assert_eq!(nowhere.class, FailureClass::FileSystem);
    assert!(nowhere.message.starts_with("no/such/directory"), "{nowhere}");
}

#[test]
fn files_that_are_too_large_are_refused_before_they_are_read() {
    for (file, limit) in [
        ("model.onnx", 2u64 << 30),
        ("tokenizer.json", 256 << 20),
        ("modules.json", 1 << 20),
        ("1_Pooling/config.json", 1 << 20),
    ] {
        let copy = Copy::of("table");
        // A hole, which takes no room on the disk.
        fs::File::create(copy.directory.join(file)).unwrap().set_len(limit + 1).unwrap();
        let failure = copy.refused(file, &format!("has more than {limit} bytes"));
        assert_eq!(failure.class, FailureClass::Validation);
    }
}

#[test]
fn a_tokenizer_that_leaves_no_room_for_a_text_is_refused() {
    let copy = Copy::of("table").tokenizer(|json| {
        let special = json["post_processor"]["single"][0].clone();
        let single = json["post_processor"]["single"].as_array_mut().unwrap();
        single.extend(std::iter::repeat_n(special, 10));
    });
    copy.refused("tokenizer.json", "adds 12 special tokens to a text, which may have 12");
    let one = Copy::of("table").tokenizer(|json| {
        let special = json["post_processor"]["single"][0].clone();
        let single = json["post_processor"]["single"].as_array_mut().unwrap();
        single.extend(std::iter::repeat_n(special, 9));
    });
    assert!(one.open().embed(&["bread salt flour"], TextKind::Passage).unwrap()[0].is_ok());
}

/// The sizes that an input says it has.
fn sizes(input: &mut ValueInfoProto) -> &mut Vec<tensor_shape_proto::Dimension> {
    match input.r#type.as_mut().unwrap().value.as_mut().unwrap() {
        type_proto::Value::TensorType(tensor) => &mut tensor.shape.as_mut().unwrap().dim,
    }
}

#[test]
fn files_that_are_no_model_of_texts_are_refused() {
    let refused = |copy: Copy, file: &str, why: &str| {
        assert_eq!(copy.refused(file, why).class, FailureClass::Validation);
    };
    let table = || Copy::of("table");
    refused(table().with("model.onnx", "no model"), "model.onnx", "is no ONNX model");
    refused(table().with("model.onnx", ""), "model.onnx", "has no graph");
    refused(table().with("tokenizer.json", "{}"), "tokenizer.json", "is no tokenizer");
    let changed = |change: fn(&mut ModelProto), why| refused(table().changed(change), "model.onnx", why);
    changed(|proto| proto.graph.as_mut().unwrap().input[1].name = "pixel_values".into(), "pixel_values");
    changed(|proto| proto.graph.as_mut().unwrap().input[1].name = "input_ids".into(), "twice");
    changed(|proto| drop(proto.graph.as_mut().unwrap().input.remove(0)), "no input input_ids");
    changed(|proto| proto.graph.as_mut().unwrap().output[0].name = "logits".into(), "logits");
    changed(
        |proto| {
            let size = tensor_shape_proto::dimension::Value::DimValue(128);
            sizes(&mut proto.graph.as_mut().unwrap().input[0])[1].value = Some(size);
        },
        "fixed shape",
    );
    changed(|proto| drop(sizes(&mut proto.graph.as_mut().unwrap().input[0]).pop()), "fixed shape");
    changed(
        |proto| {
            let kind = proto.graph.as_mut().unwrap().input[0].r#type.as_mut().unwrap();
            let Some(type_proto::Value::TensorType(tensor)) = kind.value.as_mut() else { unreachable!() };
            tensor.elem_type = 1;
        },
        "no integers",
    );
    changed(
        |proto| {
            let weight = weight(proto, "matrix");
            weight.raw_data.clear();
            weight.data_location = Some(1);
        },
        "can not be run",
    );
    changed(|proto| proto.graph.as_mut().unwrap().node[3].op_type = "Imagine".into(), "can not be run");
    changed(|proto| weight(proto, "table").raw_data.fill(0xff), "without a direction");
    // Fewer rows than the tokenizer has tokens.
    let short = table().changed(|proto| {
        let table = weight(proto, "table");
        table.dims[0] = 15;
        table.raw_data.truncate(15 * 16);
    });
    refused(short, "tokenizer.json", "tokens up to 15");
    let few = table().with("sentence_bert_config.json", r#"{"max_seq_length": 2}"#);
    refused(few, "tokenizer.json", "2 tokens");
}

/// Has the states of tokens come out in another shape, by another name.
fn reshape_states(graph: &mut GraphProto, to: &[i64], name: &str) {
    graph.node[3].output[0] = "states".into();
    let (dims, int64_data) = (vec![to.len() as i64], to.to_vec());
    let shape = TensorProto { name: "shape".into(), data_type: 7, dims, int64_data, ..Default::default() };
    graph.initializer.push(shape);
    let mut reshape = NodeProto { op_type: "Reshape".into(), name: "flat".into(), ..Default::default() };
    reshape.input = vec!["states".into(), "shape".into()];
    reshape.output = vec![name.into()];
    graph.node.push(reshape);
}

#[test]
fn a_shape_that_is_none_of_texts_is_a_failure() {
    // The states of all texts in one row.
    let copy = Copy::of("table").changed(|proto| {
        let graph = proto.graph.as_mut().unwrap();
        reshape_states(graph, &[1, -1, 3], "last_hidden_state");
    });
    // One text has the right shape; several are tried alone, then.
    let texts = ["ship", "bread", "deep water"];
    let vectors = passages(&copy.open(), &texts);
    for (vector, tokens) in vectors.iter().zip([&[2, 5, 3][..], &[2, 9, 3], &[2, 8, 7, 3]]) {
        assert_near(vector, &by_hand(tokens), "alone");
    }
    let rank = Copy::of("table").changed(|proto| {
        proto.graph.as_mut().unwrap().output[0].name = "sentence_embedding".into();
        proto.graph.as_mut().unwrap().node[3].output[0] = "sentence_embedding".into();
    });
    rank.refused("model.onnx", "shape [1, 3, 3]");
}

#[test]
fn a_vector_of_another_length_than_the_first_is_a_failure() {
    // The states of a text's tokens one behind the other, as if they were its vector.
    let copy = Copy::of("table").changed(|proto| {
        let graph = proto.graph.as_mut().unwrap();
        reshape_states(graph, &[0, -1], "sentence_embedding");
        graph.output[0].name = "sentence_embedding".into();
        graph.output[0].r#type = None;
    });
    let embedder = copy.open();
    assert_eq!(embedder.dimension(), Ok(9), "three tokens of the word that is tried first");
    let results = embedder.embed(&["ship", "deep water"], TextKind::Passage).unwrap();
    assert_eq!(results[0].as_ref().map(Vec::len), Ok(9));
    let failure = results[1].as_ref().unwrap_err();
    assert_eq!(failure.class, FailureClass::Validation);
    assert!(failure.message.contains("gave a vector of 12 numbers where 9 are expected"), "{failure}");
}

#[test]
fn vectors_that_are_longer_than_a_database_takes_are_refused() {
    let copy = Copy::of("table").changed(|proto| {
        let matrix = weight(proto, "matrix");
        matrix.dims = vec![4, 4097];
        matrix.raw_data = 1f32.to_le_bytes().repeat(4 * 4097);
        proto.graph.as_mut().unwrap().output[0].r#type = None;
    });
    copy.refused("model.onnx", "4097 numbers; 1 to 4096");
}

#[test]
fn a_network_that_panics_is_refused() {
    // tract indexes the table of types without asking whether the row is there: `[SEP]` gets a type that it has not.
    let copy = Copy::of("table").tokenizer(|json| {
        json["post_processor"]["single"][2]["SpecialToken"]["type_id"] = 7.into();
    });
    copy.refused("model.onnx", "can not be run on 3 tokens");
}

#[test]
fn a_damaged_file_is_refused_or_another_model_and_never_a_panic() {
    let bytes = fs::read(model("table").join("model.onnx")).unwrap();
    let (copy, name) = (Copy::of("table"), open(&model("table")).model().to_owned());
    let mut refused = 0;
    for at in (0..bytes.len()).step_by(5) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x41;
        fs::write(copy.directory.join("model.onnx"), &bytes).unwrap();
        match OnnxEmbedder::open(&copy.directory) {
            Ok(embedder) => {
                assert_ne!(embedder.model(), name);
                for vector in embedder.embed(&["bread salt", "ship"], TextKind::Passage).unwrap() {
                    assert!(vector.is_err() || vector.unwrap().iter().all(|x| x.is_finite()));
                }
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 20, "{refused} of {} bytes", bytes.len() / 5);
}

#[test]
fn a_damaged_tokenizer_is_refused_or_another_one_and_never_a_panic() {
    let bytes = fs::read(model("table").join("tokenizer.json")).unwrap();
    let (copy, name) = (Copy::of("table"), open(&model("table")).model().to_owned());
    let mut refused = 0;
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        // A digit becomes another one, a letter another one or a sign.
        bytes[at] ^= 0x0b;
        fs::write(copy.directory.join("tokenizer.json"), &bytes).unwrap();
        match OnnxEmbedder::open(&copy.directory) {
            Ok(embedder) => {
                assert_ne!(embedder.model(), name);
                for vector in embedder.embed(&["bread salt", "", "unheard ships"], TextKind::Passage).unwrap()
                {
                    assert!(vector.is_err() || vector.unwrap().iter().all(|x| x.is_finite()));
                }
            }
            Err(failure) => {
                assert_eq!(failure.class, FailureClass::Validation, "{failure}");
                refused += 1;
            }
        }
    }
    assert!(refused > 200, "{refused} of {} bytes", bytes.len());
}

#[test]
fn a_file_that_was_cut_off_anywhere_is_refused_without_a_panic() {
    let bytes = fs::read(model("table").join("model.onnx")).unwrap();
    let copy = Copy::of("table");
    for length in 0..bytes.len() {
        fs::write(copy.directory.join("model.onnx"), &bytes[..length]).unwrap();
        match OnnxEmbedder::open(&copy.directory) {
            // Behind the graph stands only the version of the operators.
            Ok(_) => assert!(length + 10 > bytes.len(), "{length} of {} bytes", bytes.len()),
            Err(failure) => assert!(failure.message.contains("model.onnx"), "{failure}"),
        }
    }
}
