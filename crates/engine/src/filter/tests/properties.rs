//! Random filters on random metadata: the text reads back, and the evaluation on encoded bytes equals an oracle's on
//! decoded values.

use std::cmp::Ordering;
use std::path::Path;

use proptest::prelude::*;

use super::super::*;
use crate::model::{Metadata, value};

/// A filter as the oracle has it.
#[derive(Debug, Clone)]
enum Expr {
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Compare(Vec<String>, &'static str, Value),
    OneOf(Vec<String>, Vec<Value>),
    Exists(Vec<String>),
}

impl Expr {
    fn field(path: &[String]) -> Field {
        path[1..].iter().fold(Field::named(&path[0]), Field::within)
    }

    fn build(&self) -> Filter {
        match self {
            Self::And(left, right) => left.build().and(right.build()),
            Self::Or(left, right) => left.build().or(right.build()),
            Self::Not(inner) => !inner.build(),
            Self::Compare(path, sign, value) => {
                let (field, value) = (Self::field(path), value.clone());
                match *sign {
                    "=" => Filter::eq(field, value),
                    "!=" => Filter::ne(field, value),
                    "<" => Filter::lt(field, value),
                    "<=" => Filter::le(field, value),
                    ">" => Filter::gt(field, value),
                    _ => Filter::ge(field, value),
                }
            }
            Self::OneOf(path, values) => Filter::one_of(Self::field(path), values.iter().cloned()),
            Self::Exists(path) => Filter::exists(Self::field(path)),
        }
    }

    /// A text with all parentheses and few spaces.
    fn text(&self) -> String {
        let quote = |text: &str, quote: char| {
            let text = text.replace('\\', "\\\\").replace(quote, &format!("\\{quote}"));
            format!("{quote}{text}{quote}")
        };
        let path = |path: &[String]| path.iter().map(|name| quote(name, '`')).collect::<Vec<_>>().join(" . ");
        let literal = |value: &Value| match value {
            Value::Null => "NULL".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Integer(value) => value.to_string(),
            Value::Unsigned(value) => value.to_string(),
            Value::Float(value) => format!("{value:e}"),
            Value::String(text) => quote(text, '\''),
            _ => unreachable!("{value:?}"),
        };
        match self {
            Self::And(left, right) => format!("({})and({})", left.text(), right.text()),
            Self::Or(left, right) => format!("({})or({})", left.text(), right.text()),
            Self::Not(inner) => format!("not({})", inner.text()),
            Self::Compare(field, sign, value) => format!("{}{sign}{}", path(field), literal(value)),
            Self::OneOf(field, values) => {
                format!("{}in({})", path(field), values.iter().map(literal).collect::<Vec<_>>().join(","))
            }
            Self::Exists(field) => format!("{}exists", path(field)),
        }
    }

    fn holds(&self, metadata: &Metadata) -> bool {
        match self {
            Self::And(left, right) => left.holds(metadata) & right.holds(metadata),
            Self::Or(left, right) => left.holds(metadata) | right.holds(metadata),
            Self::Not(inner) => !inner.holds(metadata),
            Self::Exists(path) => look(metadata, path).is_some(),
            Self::OneOf(path, values) => {
                values.iter().any(|value| Self::Compare(path.clone(), "=", value.clone()).holds(metadata))
            }
            Self::Compare(path, sign, wanted) => {
                let Some(found) = look(metadata, path) else { return false };
                let elements =
                    if let Value::List(values) = found { &values[..] } else { std::slice::from_ref(found) };
                let orders: Vec<_> = elements.iter().filter_map(|element| order(element, wanted)).collect();
                let is_list = matches!(found, Value::List(_));
                let is_equal = orders.contains(&Ordering::Equal);
                match *sign {
                    "=" => is_equal,
                    "!=" => !is_equal && (*wanted == Value::Null || !orders.is_empty()),
                    _ if is_list => false,
                    "<" => orders == [Ordering::Less],
                    "<=" => orders == [Ordering::Less] || is_equal,
                    ">" => orders == [Ordering::Greater],
                    _ => orders == [Ordering::Greater] || is_equal,
                }
            }
        }
    }
}

fn look<'a>(metadata: &'a Metadata, path: &[String]) -> Option<&'a Value> {
    match (metadata.get(&path[0])?, &path[1..]) {
        (found, []) => Some(found),
        (Value::Map(inner), rest) => look(inner, rest),
        _ => None,
    }
}

/// How two values of one type compare.
fn order(found: &Value, wanted: &Value) -> Option<Ordering> {
    match (found, wanted) {
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        (Value::Bool(found), Value::Bool(wanted)) => Some(found.cmp(wanted)),
        (Value::String(found), Value::String(wanted)) => Some(found.cmp(wanted)),
        _ => {
            let ((found_negative, found), (wanted_negative, wanted)) = (decimal(found)?, decimal(wanted)?);
            Some(match (found_negative, wanted_negative) {
                (false, false) => found.cmp(&wanted),
                (true, true) => wanted.cmp(&found),
                (is_negative, _) => {
                    if is_negative {
                        Ordering::Less
                    } else {
                        Ordering::Greater
                    }
                }
            })
        }
    }
}

/// Whether a number is below zero, and all digits of it: 320 before the point, 1,080 behind it.
fn decimal(value: &Value) -> Option<(bool, String)> {
    let (is_negative, text) = match value {
        Value::Integer(value) => (*value < 0, format!("{}.{:01080}", value.unsigned_abs(), 0)),
        Value::Unsigned(value) => (false, format!("{value}.{:01080}", 0)),
        Value::Float(value) => (*value < 0.0, format!("{:.1080}", value.abs())),
        _ => return None,
    };
    Some((is_negative, format!("{text:0>1401}")))
}

fn name() -> impl Strategy<Value = String> {
    let few: &[_] = &["a", "b", "", "and", "a.b", "ü", "\\`'\"\n"];
    prop_oneof![6 => proptest::sample::select(few).prop_map(ToOwned::to_owned), 1 => any::<String>()]
}

fn number() -> impl Strategy<Value = Value> {
    let floats: &[f64] =
        &[0.5, -0.0, 1.0, 1.5, -2.5, 9_007_199_254_740_992.0, 1.8446744073709552e19, 9.223372036854775e18];
    let integers: &[i64] =
        &[i64::MIN, i64::MAX, 9_007_199_254_740_993, 9_007_199_254_740_992, 9_223_372_036_854_774_784];
    prop_oneof![
        4 => (-2i64..3).prop_map(Value::from),
        2 => proptest::sample::select(integers).prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => (u64::MAX - 3000..=u64::MAX).prop_map(Value::from),
        3 => proptest::sample::select(floats).prop_map(Value::from),
        1 => proptest::num::f64::ANY.prop_filter("finite", |x| x.is_finite()).prop_map(Value::from),
    ]
}

fn text() -> impl Strategy<Value = Value> {
    let few: &[_] = &["", "a", "b", "ab", "\"'\\", "ü"];
    let few = proptest::sample::select(few).prop_map(Value::from);
    prop_oneof![4 => few, 1 => any::<String>().prop_map(Value::from)]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![1 => Just(Value::Null), 1 => any::<bool>().prop_map(Value::from), 4 => number(), 3 => text()]
}

fn metadata() -> impl Strategy<Value = Metadata> {
    let value = scalar().prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
            proptest::collection::btree_map(name(), inner, 0..4).prop_map(Value::Map),
        ]
    });
    proptest::collection::btree_map(name(), value, 0..6)
}

fn expr() -> impl Strategy<Value = Expr> {
    let path = || proptest::collection::vec(name(), 1..3);
    let signs = &["<", "<=", ">", ">="][..];
    let ordered = (path(), proptest::sample::select(signs), prop_oneof![number(), text()]);
    let leaf = prop_oneof![
        4 => (path(), proptest::sample::select(&["=", "!="][..]), scalar())
            .prop_map(|(path, sign, value)| Expr::Compare(path, sign, value)),
        4 => ordered.prop_map(|(path, sign, value)| Expr::Compare(path, sign, value)),
        2 => (path(), proptest::collection::vec(scalar(), 0..5)).prop_map(|(path, values)| Expr::OneOf(path, values)),
        1 => path().prop_map(Expr::Exists),
    ];
    leaf.prop_recursive(5, 24, 2, |inner| {
        let pair = || (inner.clone().prop_map(Box::new), inner.clone().prop_map(Box::new));
        prop_oneof![
            pair().prop_map(|(left, right)| Expr::And(left, right)),
            pair().prop_map(|(left, right)| Expr::Or(left, right)),
            inner.clone().prop_map(|inner| Expr::Not(Box::new(inner))),
        ]
    })
}

/// Words and signs in any order.
fn soup() -> impl Strategy<Value = String> {
    let words: &[_] = &[
        "a",
        "b.c",
        "`x y`",
        "and",
        "or",
        "not",
        "in",
        "exists",
        "(",
        ")",
        ",",
        ".",
        "=",
        "!=",
        "<",
        ">=",
        "1",
        "-0.5",
        "'t'",
        "\"",
        "true",
        "null",
        "1e9",
        "\\",
        "ü",
        "a = 1",
        "(a = 1",
        "b in (1, 2)",
        "not (",
    ];
    let word =
        prop_oneof![20 => proptest::sample::select(words).prop_map(ToOwned::to_owned), 1 => any::<String>()];
    proptest::collection::vec(word, 0..12).prop_map(|words| words.join(" "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_filter_holds_where_the_oracle_says(metadata in metadata(), exprs in proptest::collection::vec(expr(), 1..4)) {
        let bytes = value::encode(&metadata);
        for expr in exprs {
            let holds = expr.build().matches(&bytes, Path::new("f")).unwrap();
            prop_assert_eq!(holds, expr.holds(&metadata), "{}", expr.build());
        }
    }

    #[test]
    fn numbers_compare_without_rounding(
        exponent in 0u32..64,
        offset in -3i128..4,
        is_negative in any::<bool>(),
        other in prop_oneof![(-3i32..4).prop_map(Err), number().prop_map(Ok)],
    ) {
        let power = if is_negative { -(1i128 << exponent) } else { 1i128 << exponent };
        let whole = power + offset;
        let whole = i64::try_from(whole).ok().map(Value::from).or(u64::try_from(whole).ok().map(Value::from));
        prop_assume!(whole.is_some());
        // A float beside the same power of two, halves among them where there are any.
        let other = other.unwrap_or_else(|steps: i32| {
            let (near, far) = (power as f64, power as f64 + 0.5 * f64::from(steps));
            Value::from(if steps == 0 { near.next_up() } else { far })
        });
        let path = vec!["n".to_owned()];
        for (found, wanted) in [(whole.clone(), Some(other.clone())), (Some(other), whole)] {
            let metadata = Metadata::from_iter(found.map(|found| ("n".to_owned(), found)));
            for sign in ["=", "!=", "<", "<=", ">", ">="] {
                let expr = Expr::Compare(path.clone(), sign, wanted.clone().unwrap());
                let holds = expr.build().matches(&value::encode(&metadata), Path::new("f")).unwrap();
                prop_assert_eq!(holds, expr.holds(&metadata), "{} on {:?}", expr.build(), metadata);
            }
        }
    }

    #[test]
    fn a_filter_is_what_its_texts_say(expr in expr()) {
        let filter = expr.build();
        prop_assert_eq!(filter.check(), Ok(()));
        let text = filter.to_string();
        prop_assert_eq!(&Filter::parse(&text), &Ok(filter.clone()), "{}", text);
        prop_assert_eq!(&Filter::parse(&expr.text()), &Ok(filter), "{}", expr.text());
    }

    #[test]
    fn any_text_is_a_filter_or_an_error_in_it(text in prop_oneof![soup(), any::<String>()]) {
        match Filter::parse(&text) {
            Ok(filter) => prop_assert_eq!(Filter::parse(&filter.to_string()), Ok(filter)),
            Err(FilterError::Syntax { position, .. }) => prop_assert!(text.is_char_boundary(position)),
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    #[test]
    fn damaged_metadata_is_an_error_or_does_not_matter(
        metadata in metadata(),
        expr in expr(),
        end in any::<prop::sample::Index>(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = value::encode(&metadata);
        prop_assume!(!bytes.is_empty());
        let filter = expr.build();
        let whole = filter.matches(&bytes, Path::new("f")).unwrap();
        let cut = &bytes[..1 + end.index(bytes.len())];
        if let Ok(answer) = filter.matches(cut, Path::new("f")) {
            prop_assert_eq!(answer, whole);
        }
        for (index, byte) in flips {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        // Bytes that lie: an answer or an error.
        drop(filter.matches(&bytes, Path::new("f")));
    }
}
