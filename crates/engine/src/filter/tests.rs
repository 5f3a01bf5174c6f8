//! What filters mean, their text, and their limits; `properties` compares them with an oracle.

mod properties;

use std::path::Path;

use super::*;
use crate::model::{Metadata, limits::MAX_FILTER_BYTES, value};

fn sample() -> Metadata {
    let author = Metadata::from([("name".to_owned(), "Ada".into()), ("v.1".to_owned(), 7.into())]);
    Metadata::from([
        ("author".to_owned(), author.into()),
        ("big".to_owned(), u64::MAX.into()),
        ("draft".to_owned(), false.into()),
        ("exact".to_owned(), 9_007_199_254_740_993_i64.into()),
        ("lang".to_owned(), "en".into()),
        ("mixed".to_owned(), vec![Value::Null, 1.into(), "x".into(), vec![9].into()].into()),
        ("nothing".to_owned(), Value::Null),
        ("none".to_owned(), Vec::<i32>::new().into()),
        ("score".to_owned(), 0.5.into()),
        ("tags".to_owned(), vec!["a", "b"].into()),
        ("year".to_owned(), 2000.into()),
    ])
}

fn is_true(text: &str) -> bool {
    let filter = Filter::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    filter.matches(&value::encode(&sample()), Path::new("f")).unwrap()
}

#[test]
fn comparisons_hold_or_not_as_documented() {
    let holds = [
        r#"lang = "en""#,
        "lang != 'de'",
        "lang > 'e' and lang < 'eo' and lang >= 'en' and lang <= 'en'",
        "year = 2000.0 and year >= 2000 and year < 2000.5 and year > 1999.999",
        "big = 18446744073709551615 and big < 18446744073709551616.0 and big > 9223372036854775807",
        "exact = 9007199254740993 and exact != 9007199254740992.0 and exact > 9007199254740992.0",
        "score = 5e-1 and score in (0.5, 1) and score > 0 and score < 1",
        "draft = false and draft != true",
        "lang in ('de', 'en') and year in (1, 2000, 'x')",
        "not missing exists and not missing = 1 and not missing != 1 and not missing in (1)",
        "not lang = 5 and not lang != 5 and not lang < 5 and not year > 'a' and not draft = 0",
        "tags = 'a' and tags != 'c' and tags in ('c', 'b') and not tags != 'a' and not tags != 1",
        "not tags < 'z' and not tags > '' and tags exists",
        "mixed = 1 and mixed = null and mixed = 'x' and mixed != 2 and not mixed = 9 and not mixed != null",
        "not none = 1 and not none != 1 and none != null and none exists",
        "nothing exists and nothing = null and not nothing != null and not nothing = 0 and year != null",
        "not missing != null and not missing = null",
        "author.name = 'Ada' and author.`v.1` = 7 and author exists and not author = 'Ada' and author != null",
        "not author.name.first exists and not lang.en exists and not author.v exists and not `author.name` exists",
        "not year in () and not missing in ()",
        "lang = 'de' or year = 1 or year = 2000 and draft = false",
        "not (lang = 'en' and year = 1) and not lang = 'de'",
        "not not NOT (lang = 'de' OR Year EXISTS)",
    ];
    for text in holds {
        assert!(is_true(text), "{text}");
    }
    for part in holds[..16].iter().flat_map(|text| text.split(" and ")) {
        assert!(!is_true(&format!("not ({part})")), "{part}");
    }
    assert!(!Filter::exists("x").matches(&[], Path::new("f")).unwrap());
    assert!(Filter::not(Filter::eq("x", 1)).matches(&[], Path::new("f")).unwrap());
}

#[test]
fn canonical_texts_are_as_they_were() {
    for (text, canonical) in [
        ("a=1", "a = 1"),
        ("((a.b exists))", "a.b exists"),
        ("a=1 or b=2 and(c=3 or d=4)", "a = 1 or b = 2 and (c = 3 or d = 4)"),
        ("a=1 and (b=2 and c=3)", "a = 1 and b = 2 and c = 3"),
        ("not a=1 and NOT NOT b=2", "not (a = 1) and b = 2"),
        ("x in (2, 'b', 1.0, 2.0, TRUE, null, 'a')", r#"x in (null, true, 1, 2, "a", "b")"#),
        ("x in (1, 1.0)", "x = 1"),
        ("x in ( )", "x in ()"),
        (r#"`and`='it"s' or `a``"#, "`"),
        ("`and`.`a b`.`\\`` = 'it\"s\\u{7}\\n'", "`and`.`a b`.`\\`` = \"it\\\"s\\u{7}\\n\""),
        ("grün_1 >= -0.0", "grün_1 >= 0"),
        ("x<1e300 or x>-1.5E-7", "x < 1e300 or x > -1.5e-7"),
        ("x=9223372036854775808.0 or x=1e19", "x = 9223372036854775808 or x = 10000000000000000000"),
    ] {
        match Filter::parse(text) {
            Ok(filter) => assert_eq!(filter.to_string(), canonical, "{text}"),
            Err(_) => assert_eq!(canonical, "`", "{text}"),
        }
    }
}

#[test]
fn what_is_built_is_what_is_parsed() {
    for (built, text) in [
        (Filter::ne("a.b", "x"), "a.b != 'x'"),
        (Filter::ne(Field::named("a.b").within(""), "x"), "`a.b`.`` != 'x'"),
        (Filter::range("y", 1..), "y >= 1"),
        (Filter::range("y", ..=0.5), "y <= 0.5"),
        (Filter::range::<&str>("y", (Bound::Excluded("a"), Bound::Unbounded)), "y > 'a'"),
        (Filter::range("y", "a".."b"), "y >= 'a' and y < 'b'"),
        (Filter::range::<i32>("y", ..), "y exists"),
        (!Filter::gt("y", 3_u32), "not y > 3"),
        (!!Filter::le("y", u64::MAX), "y <= 18446744073709551615"),
        (Filter::one_of("y", [1.0, 1.0]), "y = 1"),
        (Filter::one_of("y", Vec::<i32>::new()), "y in ()"),
        (Filter::eq("y", Value::Null).or(Filter::lt("z", 1)), "y = null or z < 1"),
    ] {
        assert_eq!(text.parse::<Filter>().unwrap(), built, "{text}");
    }
}

#[test]
fn errors_say_where_and_what_was_expected() {
    for (text, at, wanted, there) in [
        ("", 0, "a field", "the end"),
        ("  ", 2, "a field", "the end"),
        ("year", 4, "one of =", "the end"),
        ("year == 1", 6, "a value", "\"= 1\""),
        ("year = foo", 7, "a value", "\"foo\""),
        ("year < true", 7, "a number or a text", "\"true\""),
        ("year < null or x = 1", 7, "a number or a text", "\"null or x = 1\""),
        ("a = 1 b = 2", 6, "`and`, `or` or the end", "\"b = 2\""),
        ("a = 1)", 5, "`and`, `or` or the end", "\")\""),
        ("(a = 1", 6, "`and`, `or` or `)`", "the end"),
        ("a = 1 and", 9, "a field", "the end"),
        ("in = 1", 0, "a field", "\"in = 1\""),
        ("a. = 1", 3, "the name", "\"= 1\""),
        ("a in 1", 5, "`(`", "\"1\""),
        ("a in (1, )", 9, "a value", "\")\""),
        ("a in (1 2)", 8, "`,` or `)`", "\"2)\""),
        ("a = 'x", 6, "the closing quote", "the end"),
        ("ä = 'x\\q'", 7, "an escape", "\"\\\\q'\""),
        ("a = '\\u{110000}'", 5, "an escape", "\"\\\\u{110000}'\""),
        ("a = '\\u{0000041}'", 5, "an escape", "\"\\\\u{0000041}'\""),
        ("a = 1abc", 4, "a number", "\"1abc\""),
        ("a = 1.", 4, "a number", "\"1.\""),
        ("a = -", 4, "a number", "\"-\""),
        ("a = 1e", 4, "a number", "\"1e\""),
        ("a = 1.2.3", 4, "a number", "\"1.2.3\""),
        ("a = 1e999", 4, "a number that 64 bits", "\"1e999\""),
        ("a = 18446744073709551616", 4, "a number that 64 bits", "\"18446744073709551616\""),
        ("a = -9223372036854775809", 4, "a number that 64 bits", "\"-9223372036854775809\""),
        ("a ! 1", 2, "one of =", "\"! 1\""),
        ("ß; drop it, all of it, and more than that", 2, "one of =", "\"; drop it, all of it, and more t\"…"),
    ] {
        let error = Filter::parse(text).unwrap_err();
        let FilterError::Syntax { position, expected, found } = &error else { panic!("{text}: {error}") };
        assert_eq!((*position, &found[..]), (at, there), "{text}: {error}");
        assert!(expected.starts_with(wanted), "{text}: {error}");
    }
}

#[test]
fn values_that_can_not_be_compared_are_errors_where_the_filter_is_used() {
    for (filter, problem) in [
        (Filter::eq("a.b", f64::NAN), "not finite"),
        (Filter::range("a.b", f64::NEG_INFINITY..=1.0), "not finite"),
        (Filter::eq("a.b", vec![1]), "a list"),
        (Filter::one_of("a.b", [Metadata::new()]), "a map"),
        (Filter::lt("a.b", true), "no order"),
        (Filter::ge("a.b", Value::Null), "no order"),
    ] {
        let filter = !(Filter::exists("x").and(filter).or(Filter::exists("y")));
        let error = filter.check().unwrap_err();
        assert!(matches!(&error, FilterError::Value { field, .. } if field == "a.b"), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
        assert!(filter.matches(&[], Path::new("f")).is_err());
        assert!(filter.check_fields(|_| true).is_err() && filter.fields().next().is_none());
    }
    let filter = Filter::parse("b.c = 1 and (a = 1 or not b exists)").unwrap();
    assert!(filter.fields().eq(["a", "b"]));
    assert_eq!(filter.check_fields(|field| field != "c"), Ok(()));
    let unknown = FilterError::UnknownField { field: "b".to_owned() };
    assert_eq!(filter.check_fields(|field| field == "a"), Err(unknown));
}

#[test]
fn texts_beyond_the_limits_are_refused() {
    let nested = |open: &str, depth: usize, close: &str| {
        Filter::parse(&format!("{}a = 1{}", open.repeat(depth), close.repeat(depth)))
    };
    for (open, close) in
        [("(", ")"), ("not ", ""), ("not (", ")"), ("b = 1 and (c = 1 or ", ")"), ("not (b = 1 or ", ")")]
    {
        let filter = nested(open, MAX_FILTER_DEPTH, close).unwrap();
        assert_eq!(Filter::parse(&filter.to_string()), Ok(filter));
        assert_eq!(nested(open, MAX_FILTER_DEPTH + 1, close), Err(FilterError::TooDeep), "{open}");
    }
    for text in ["(", "not ", "not(", "a=1 or(", "a=1 and(b=1 or "] {
        let error = Filter::parse(&text.repeat(MAX_FILTER_BYTES / text.len())).unwrap_err();
        assert_eq!(error, FilterError::TooDeep);
    }
    let long = |bytes: usize| format!("a = '{}'", "x".repeat(bytes - 6));
    assert!(Filter::parse(&long(MAX_FILTER_BYTES)).is_ok());
    let error = FilterError::TooLong { bytes: MAX_FILTER_BYTES + 1 };
    assert_eq!(Filter::parse(&long(MAX_FILTER_BYTES + 1)), Err(error));
    let many = |count: usize| {
        let ors = vec!["a=1"; count].join(" or ");
        [ors, format!("a in ({})", vec!["1"; count].join(",")), vec!["a in()"; count].join(" or ")]
    };
    assert!(many(MAX_FILTER_TESTS).iter().all(|text| Filter::parse(text).is_ok()));
    for text in many(MAX_FILTER_TESTS + 1) {
        assert_eq!(Filter::parse(&text), Err(FilterError::TooManyTests));
    }
}

#[test]
fn filters_built_beyond_the_limits_carry_the_error() {
    let leaf = || Filter::eq("a", 1);
    let mut deep = leaf();
    for _ in 0..MAX_FILTER_DEPTH {
        deep = leaf().and(leaf().or(deep));
    }
    assert_eq!(Filter::parse(&deep.to_string()), Ok(deep.clone()));
    assert_eq!(leaf().and(leaf().or(deep.clone())).check(), Err(FilterError::TooDeep));
    assert_eq!(Filter::not(deep).check(), Err(FilterError::TooDeep));
    let mut deeper = leaf();
    for _ in 0..100_000 {
        deeper = !(leaf().and(leaf().or(deeper)));
    }
    assert_eq!(deeper.check(), Err(FilterError::TooDeep));
    let all = Filter::one_of("a", 0..MAX_FILTER_TESTS as i32);
    assert_eq!(all.check(), Ok(()));
    assert_eq!(all.clone().or(all).check(), Err(FilterError::TooManyTests));
    assert_eq!(Filter::one_of("a", 0..i32::MAX).check(), Err(FilterError::TooManyTests));
    let mut wide = leaf();
    for _ in 0..100_000 {
        wide = wide.and(leaf());
    }
    assert_eq!(wide.check(), Err(FilterError::TooManyTests));
}
