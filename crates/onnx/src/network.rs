//! The network of a model: `model.onnx`, run by tract.
//!
//! **Owns** what is believed of the file, and the numbers that go in and come out. **Must not know** texts.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll::limits::MAX_DIMENSION;
use plimsoll_ingest::Failure;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Dimension;
use tract_onnx::pb::type_proto::Value as Type;
use tract_onnx::pb::{GraphProto, ValueInfoProto};
use tract_onnx::prelude::*;

use crate::files::{invalid, open, too_long, unreadable};
use crate::guard::caught;
use crate::pool::{Pooling, unit};
use crate::tokens::Tokens;

/// The largest file that is read: that of the format, which is a protocol buffer.
const MAX_BYTES: u64 = 2 << 30;

/// What a network is given about each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Ids,
    Mask,
    Types,
}

impl Input {
    fn named(name: &str) -> Option<Self> {
        match name {
            "input_ids" => Some(Self::Ids),
            "attention_mask" => Some(Self::Mask),
            "token_type_ids" => Some(Self::Types),
            _ => None,
        }
    }

    /// Its numbers for some texts, a row for each, padded to `length`.
    fn numbers(self, batch: &[&Tokens], length: usize) -> Vec<i64> {
        let mut numbers = Vec::with_capacity(batch.len() * length);
        for tokens in batch {
            let end = numbers.len() + length;
            match self {
                Self::Ids => numbers.extend(tokens.ids.iter().map(|id| i64::from(*id))),
                Self::Mask => numbers.extend(tokens.ids.iter().map(|_| 1)),
                Self::Types => numbers.extend(tokens.types.iter().map(|kind| i64::from(*kind))),
            }
            // What stands where nothing is has no effect: token 0 is one that every table has.
            numbers.resize(end, 0);
        }
        numbers
    }
}

/// What a network gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// A state for each token: texts × tokens × numbers.
    States,
    /// A vector for each text: texts × numbers.
    Vectors,
}

/// The outputs that are understood, the best first, as Sentence Transformers and Transformers name them.
const OUTPUTS: [(&str, Output); 3] = [
    ("sentence_embedding", Output::Vectors),
    ("last_hidden_state", Output::States),
    ("token_embeddings", Output::States),
];

/// A network that is ready to run. Threads share it.
pub(crate) struct Network {
    path: PathBuf,
    plan: Arc<TypedRunnableModel>,
    inputs: Vec<(Input, DatumType)>,
    output: Output,
    known_tokens: Option<u32>,
    hash: blake3::Hash,
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Network {
    /// Reads and prepares a network.
    ///
    /// # Errors
    /// The file can not be read or is no ONNX model, or its inputs or outputs are not those of a model of texts.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let (plan, described, hash) = {
            let file = open(path, MAX_BYTES)?;
            // One reading, so that the hash is that of what is used.
            let mut reader =
                Hashing { inner: file.take(MAX_BYTES + 1), hasher: blake3::Hasher::new(), failed: None };
            let proto = caught(|| onnx().proto_model_for_read(&mut reader));
            if let Some(error) = reader.failed {
                return Err(unreadable(path, &error));
            }
            if reader.hasher.count() > MAX_BYTES {
                return Err(too_long(path, MAX_BYTES));
            }
            let proto = proto.map_err(|what| invalid(path, &format!("is no ONNX model: {what}")))?;
            let graph = proto.graph.as_ref().ok_or_else(|| invalid(path, "has no graph"))?;
            let described = Described::of(graph).map_err(|what| invalid(path, &what))?;
            let plan = caught(|| described.plan(onnx().model_for_proto_model(&proto)?));
            let plan = plan.map_err(|what| invalid(path, &format!("can not be run: {what}")))?;
            (plan, described, reader.hasher.finalize())
        };
        let Described { inputs, output: (_, output), known_tokens } = described;
        let inputs = inputs.into_iter().map(|(_, input, kind)| (input, kind)).collect();
        Ok(Self { path: path.to_owned(), plan, inputs, output, known_tokens, hash })
    }

    /// The vectors of some texts, all of the same length.
    ///
    /// # Errors
    /// The network can not be run on them, or gives something else than a vector of finite numbers for each.
    pub(crate) fn run(&self, batch: &[&Tokens], pooling: Pooling) -> Result<Vec<Vec<f32>>, Failure> {
        let length = batch.iter().map(|tokens| tokens.len()).max().unwrap_or(0);
        let output = caught(|| -> TractResult<_> {
            let inputs = self.inputs.iter().map(|(input, kind)| {
                let numbers = input.numbers(batch, length);
                let tensor = Tensor::from_shape(&[batch.len(), length], &numbers)?;
                Ok(tensor.cast_to_dt(*kind)?.into_owned().into_tvalue())
            });
            let output = self.plan.run(inputs.collect::<TractResult<_>>()?)?;
            let output = output.first().ok_or_else(|| TractError::msg("it has no output"))?;
            let shape = output.shape().to_vec();
            let numbers = output.cast_to::<f32>()?;
            let numbers = numbers.to_plain_array_view::<f32>()?;
            Ok((shape, numbers.iter().copied().collect::<Vec<f32>>()))
        });
        let (shape, numbers) = output
            .map_err(|what| invalid(&self.path, &format!("can not be run on {length} tokens: {what}")))?;
        let per_text = match (self.output, &shape[..]) {
            (Output::Vectors, [texts, _]) if *texts == batch.len() => 1,
            (Output::States, [texts, tokens, _]) if *texts == batch.len() && *tokens == length => length,
            _ => {
                let what =
                    format!("gave numbers of shape {shape:?} for {} texts of {length} tokens", batch.len());
                return Err(invalid(&self.path, &what));
            }
        };
        let dimension = shape.last().copied().unwrap_or(0);
        if !(1..=MAX_DIMENSION).contains(&dimension) {
            let what = format!("gives vectors of {dimension} numbers; 1 to {MAX_DIMENSION} can be stored");
            return Err(invalid(&self.path, &what));
        }
        let states = numbers.chunks_exact(per_text * dimension);
        let vectors = batch.iter().zip(states).map(|(tokens, states)| {
            let states = states.get(..tokens.len().min(per_text) * dimension).unwrap_or(states);
            unit(&pooling.of(states, dimension)).ok_or_else(|| {
                invalid(&self.path, "gave numbers without a direction: zeros, or not finite ones")
            })
        });
        vectors.collect()
    }

    /// Whether the states of tokens are to be pooled.
    pub(crate) fn pools(&self) -> bool {
        self.output == Output::States
    }

    /// Whether the network can tell tokens from padding.
    pub(crate) fn masks(&self) -> bool {
        self.inputs.iter().any(|(input, _)| *input == Input::Mask)
    }

    /// How many tokens it has rows for, where that can be seen.
    pub(crate) fn known_tokens(&self) -> Option<u32> {
        self.known_tokens
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The hash of the file.
    pub(crate) fn hash(&self) -> blake3::Hash {
        self.hash
    }
}

/// What a graph's description says about its borders.
struct Described {
    inputs: Vec<(String, Input, DatumType)>,
    output: (&'static str, Output),
    known_tokens: Option<u32>,
}

impl Described {
    /// Reads it, or says what is wrong with it.
    fn of(graph: &GraphProto) -> Result<Self, String> {
        let is_weight = |name: &str| graph.initializer.iter().any(|weight| weight.name == name);
        let mut inputs: Vec<(String, Input, DatumType)> = Vec::new();
        for input in graph.input.iter().filter(|input| !is_weight(&input.name)) {
            let name = &input.name;
            let known = Input::named(name).ok_or_else(|| {
                format!("wants the input {name:?}; input_ids, attention_mask and token_type_ids can be given")
            })?;
            if inputs.iter().any(|(other, ..)| other == name) {
                return Err(format!("has the input {name:?} twice"));
            }
            inputs.push((name.clone(), known, type_of(input)?));
        }
        if !inputs.iter().any(|(_, input, _)| *input == Input::Ids) {
            return Err("has no input input_ids".to_owned());
        }
        let has_output = |name: &str| graph.output.iter().any(|output| output.name == name);
        let output = OUTPUTS.into_iter().find(|(name, _)| has_output(name)).ok_or_else(|| {
            let names: Vec<&str> = graph.output.iter().map(|output| &output.name[..]).take(10).collect();
            let known = OUTPUTS.map(|(name, _)| name).join(", ");
            format!("has the outputs {names:?} and none of {known}")
        })?;
        Ok(Self { inputs, output, known_tokens: known_tokens(graph) })
    }

    /// A plan of the network for any number of texts and tokens.
    fn plan(&self, mut model: InferenceModel) -> TractResult<Arc<TypedRunnableModel>> {
        model.select_inputs_by_name(self.inputs.iter().map(|(name, ..)| name))?;
        let (texts, tokens) = (model.sym("texts").to_dim(), model.sym("tokens").to_dim());
        for (at, (_, _, kind)) in self.inputs.iter().enumerate() {
            let fact = InferenceFact::dt_shape(*kind, tvec![texts.clone(), tokens.clone()]);
            model.set_input_fact(at, fact)?;
        }
        model.select_outputs_by_name([self.output.0])?;
        model.into_optimized()?.into_runnable()
    }
}

/// The type of an input's numbers, if it is one whose texts and tokens can be of any number.
fn type_of(input: &ValueInfoProto) -> Result<DatumType, String> {
    let name = &input.name;
    let kind = input.r#type.as_ref().and_then(|kind| kind.value.as_ref());
    let Some(Type::TensorType(tensor)) = kind else {
        return Err(format!("has no type for the input {name:?}"));
    };
    let kind = match tensor.elem_type {
        6 => DatumType::I32,
        7 => DatumType::I64,
        other => return Err(format!("wants numbers of type {other} for {name:?}, which are no integers")),
    };
    let sizes = tensor.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
    let is_free = |size: &Option<Dimension>| !matches!(size, Some(Dimension::DimValue(_)));
    if (tensor.shape.is_some() && sizes.len() != 2) || !sizes.iter().all(|size| is_free(&size.value)) {
        return Err(format!(
            "wants the input {name:?} in a fixed shape; export it with dynamic axes for texts and tokens"
        ));
    }
    Ok(kind)
}

/// How many rows the table of tokens has, if the tokens' numbers go straight into one.
fn known_tokens(graph: &GraphProto) -> Option<u32> {
    let looks_up = |node: &&tract_onnx::pb::NodeProto| {
        node.op_type == "Gather" && node.input.get(1).is_some_and(|name| name == "input_ids")
    };
    let rows = graph.node.iter().filter(looks_up).filter_map(|node| {
        let table = graph.initializer.iter().find(|weight| Some(&weight.name) == node.input.first())?;
        u32::try_from(*table.dims.first()?).ok()
    });
    rows.min()
}

/// A reader that hashes what goes through it, and remembers why it failed.
struct Hashing<R> {
    inner: R,
    hasher: blake3::Hasher,
    failed: Option<io::Error>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(count) => {
                self.hasher.update(buffer.get(..count).unwrap_or_default());
                Ok(count)
            }
            // Whoever reads tries again.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.failed = Some(error);
                Err(kind.into())
            }
        }
    }
}
