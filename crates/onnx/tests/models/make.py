#!/usr/bin/env python3
"""Makes the models beside this file; needs `pip install onnx numpy`.

table/: the tokens' rows of a table, plus the rows of their types, times a matrix. The tests compute its vectors by hand.
bert/:  one layer of BERT with the operators that Hugging Face's exporter writes: shapes read at run time, a mask that is
        added to the scores, layer norm and GELU in their parts. `expected.json` has the vectors of some texts, each
        computed alone by ONNX's reference evaluator and pooled by numpy.
Both have the same tokenizer.json, of the kind that all-MiniLM-L6-v2 has: WordPiece, truncation, fixed padding.
The weights follow from formulas, so that every run of this script writes the same bytes.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

HERE = Path(__file__).parent
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hull", "ship", "line", "water", "deep", "bread", "salt", "flour", "##s",
         "a", "the", "."]
LENGTH = 12
TEXTS = ["", "ship", "the ship", "a deep hull.", "bread", "unheard", "salt flour water bread",
         "the deep line . the deep line . the deep line . the deep line"]


def tokenizer():
    special = [{"id": i, "content": WORDS[i], "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i in range(4)]
    token = lambda i: {"SpecialToken": {"id": WORDS[i], "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": LENGTH, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": LENGTH}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": special,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [token(2), {"Sequence": {"id": "A", "type_id": 0}}, token(3)],
            "pair": [token(2), {"Sequence": {"id": "A", "type_id": 0}}, token(3),
                     {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {WORDS[i]: {"id": WORDS[i], "ids": [i], "tokens": [WORDS[i]]} for i in (2, 3)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {word: i for i, word in enumerate(WORDS)}},
    }


def inputs():
    return [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch_size", "sequence_length"])
            for name in ("input_ids", "attention_mask", "token_type_ids")]


def model(nodes, weights, outputs, name):
    graph = helper.make_graph(nodes, name, inputs(), outputs,
                              [numpy_helper.from_array(value, key) for key, value in weights.items()])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(made, full_check=True)
    return made


def table():
    weights = {
        "table": np.array([[((7 * i + 3 * j) % 11 - 5) / 4 for j in range(4)] for i in range(16)], np.float32),
        "types": np.array([[0.5, 0.25, 0, -0.25], [9, 9, 9, 9]], np.float32),
        "matrix": np.array([[1, 0, 2], [0, 1, -1], [1, 1, 0], [-1, 0, 0.5]], np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
        helper.make_node("Gather", ["types", "token_type_ids"], ["kinds"]),
        helper.make_node("Add", ["rows", "kinds"], ["sum"]),
        helper.make_node("MatMul", ["sum", "matrix"], ["last_hidden_state"]),
    ]
    shape = ["batch_size", "sequence_length", 3]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, shape)
    return model(nodes, weights, [output], "table")


DIM, HEADS, INNER, POSITIONS = 8, 2, 16, 16


def bert():
    nodes, weights = [], {}
    count = iter(range(10**6))

    def weight(name, *shape, scale=1.0, offset=0.0):
        start = 1 + len(weights)
        numbers = np.sin(np.arange(1, 1 + int(np.prod(shape))) * (0.7 + 0.13 * start)) * scale + offset
        weights[name] = numbers.astype(np.float32).reshape(shape)
        return name

    def constant(value):
        name = f"constant_{next(count)}"
        nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value))))
        return name

    def node(kind, *args, **attributes):
        name = f"{kind.lower()}_{next(count)}"
        nodes.append(helper.make_node(kind, list(args), [name], **attributes))
        return name

    def f32(value):
        return constant(np.float32(value))

    def size(of, axis):
        at = node("Gather", node("Shape", of), constant(np.int64(axis)), axis=0)
        return node("Unsqueeze", at, constant(np.array([0], np.int64)))

    def linear(x, name, rows, columns):
        y = node("MatMul", x, weight(f"{name}.weight", rows, columns, scale=0.6))
        return node("Add", weight(f"{name}.bias", columns, scale=0.1), y)

    def layer_norm(x, name):
        centred = node("Sub", x, node("ReduceMean", x, axes=[-1]))
        variance = node("ReduceMean", node("Pow", centred, f32(2)), axes=[-1])
        scaled = node("Div", centred, node("Sqrt", node("Add", variance, f32(1e-12))))
        scaled = node("Mul", scaled, weight(f"{name}.weight", DIM, scale=0.2, offset=1))
        return node("Add", scaled, weight(f"{name}.bias", DIM, scale=0.1))

    def heads(x, order):
        shape = node("Concat", size(x, 0), size(x, 1), constant(np.array([HEADS], np.int64)),
                     constant(np.array([DIM // HEADS], np.int64)), axis=0)
        return node("Transpose", node("Reshape", x, shape), perm=order)

    # The mask: 0 where there is a token, and the smallest float where there is none.
    one = constant(np.array([1], np.int64))
    two = constant(np.array([2], np.int64))
    mask = node("Unsqueeze", node("Unsqueeze", "attention_mask", one), two)
    mask = node("Cast", mask, to=TensorProto.FLOAT)
    mask = node("Mul", node("Sub", f32(1), mask), f32(np.finfo(np.float32).min))

    weights["position_ids"] = np.arange(POSITIONS, dtype=np.int64).reshape(1, POSITIONS)
    positions = node("Slice", "position_ids", constant(np.array([0], np.int64)), size("input_ids", 1), one)
    x = node("Add", node("Gather", weight("words", len(WORDS), DIM), "input_ids"),
             node("Gather", weight("types", 2, DIM), "token_type_ids"))
    x = node("Add", x, node("Gather", weight("positions", POSITIONS, DIM), positions))
    x = layer_norm(x, "embeddings")

    query = heads(linear(x, "query", DIM, DIM), [0, 2, 1, 3])
    key = heads(linear(x, "key", DIM, DIM), [0, 2, 3, 1])
    value = heads(linear(x, "value", DIM, DIM), [0, 2, 1, 3])
    scores = node("Div", node("MatMul", query, key), f32(np.sqrt(DIM // HEADS)))
    attention = node("MatMul", node("Softmax", node("Add", scores, mask), axis=-1), value)
    attention = node("Transpose", attention, perm=[0, 2, 1, 3])
    shape = node("Concat", size(attention, 0), size(attention, 1), constant(np.array([DIM], np.int64)), axis=0)
    attention = linear(node("Reshape", attention, shape), "attention", DIM, DIM)
    x = layer_norm(node("Add", attention, x), "middle")

    inner = linear(x, "inner", DIM, INNER)
    erf = node("Add", node("Erf", node("Div", inner, f32(np.sqrt(2)))), f32(1))
    inner = node("Mul", node("Mul", inner, erf), f32(0.5))
    x = node("Add", linear(inner, "outer", INNER, DIM), x)
    last = layer_norm(x, "last")
    nodes.append(helper.make_node("Identity", [last], ["last_hidden_state"]))
    pooled = node("Gather", last, constant(np.int64(0)), axis=1)
    pooled = node("Tanh", linear(pooled, "pooler", DIM, DIM))
    nodes.append(helper.make_node("Identity", [pooled], ["pooler_output"]))
    outputs = [
        helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch_size", "sequence_length", DIM]),
        helper.make_tensor_value_info("pooler_output", TensorProto.FLOAT, ["batch_size", DIM]),
    ]
    return model(nodes, weights, outputs, "bert")


def tokens(text):
    """The same as tokenizer.json does with the words in TEXTS, which have no endings."""
    words = text.lower().replace(".", " . ").split()
    ids = [WORDS.index(word) if word in WORDS else 1 for word in words][:LENGTH - 2]
    return [2, *ids, 3]


def expected(made):
    evaluator = ReferenceEvaluator(made)
    answers = []
    for text in TEXTS:
        ids = np.array([tokens(text)], np.int64)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        states = evaluator.run(["last_hidden_state"], feeds)[0][0].astype(np.float64)
        mean = states.mean(axis=0)
        first = states[0]
        answers.append({"text": text, "mean": (mean / np.linalg.norm(mean)).tolist(),
                        "first": (first / np.linalg.norm(first)).tolist()})
    return answers


for name, made in (("table", table()), ("bert", bert())):
    directory = HERE / name
    directory.mkdir(exist_ok=True)
    (directory / "model.onnx").write_bytes(made.SerializeToString(deterministic=True))
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer(), indent=1) + "\n")
    if name == "bert":
        (directory / "expected.json").write_text(json.dumps(expected(made), indent=1) + "\n")
