use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<EmbedderSpec, SpecError> {
    text.parse()
}

fn http(text: &str) -> HttpSpec {
    match parse(text) {
        Ok(EmbedderSpec::Http(spec)) => spec,
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn each_kind_is_known_by_its_beginning() {
    assert_eq!(parse("given"), Ok(EmbedderSpec::Given));
    assert_eq!(parse("hash"), Ok(EmbedderSpec::Hash { dimension: 256 }));
    assert_eq!(parse("hash:64"), Ok(EmbedderSpec::Hash { dimension: 64 }));
    assert_eq!(
        parse("onnx:models/e5; small"),
        Ok(EmbedderSpec::Onnx { directory: "models/e5; small".into() })
    );
    let command = vec!["python3".to_owned(), "my embed.py".into(), String::new(), "it's".into()];
    assert_eq!(
        parse(r#"command:python3 "my embed.py" '' it\'s"#),
        Ok(EmbedderSpec::Command(CommandSpec { command, model: None }))
    );
    let model = Some("a:b".to_owned());
    assert_eq!(
        parse("command#a%3Ab:e5"),
        Ok(EmbedderSpec::Command(CommandSpec { command: vec!["e5".into()], model }))
    );
}

#[test]
fn an_endpoint_has_an_address_a_model_and_options() {
    let plain = http("HTTP://localhost:8080/v1/#BAAI/bge-m3:latest");
    assert_eq!(plain, HttpSpec::new("http://localhost:8080/v1", "BAAI/bge-m3:latest"));
    assert_eq!(http("https://api.openai.com/v1/embeddings#m").base, "https://api.openai.com/v1");
    let full = http(
        "https://h/v1#m;key=MY_KEY;dimensions=256;batch=8;passage=passage:%20;query=what is; it?"
            .split("; it")
            .next()
            .unwrap(),
    );
    assert_eq!(full.key, KeySource::Variable("MY_KEY".into()));
    assert_eq!((full.dimensions, full.batch), (NonZeroUsize::new(256), NonZeroUsize::new(8)));
    assert_eq!((full.passage.as_str(), full.query.as_str()), ("passage: ", "what is"));
    assert_eq!(full.full_model(), "m;dimensions=256;passage=passage:%20;query=what%20is");
    assert_eq!(http("http://h#m;key=none").key, KeySource::None);
}

#[test]
fn what_can_not_work_is_refused_when_it_is_read() {
    for (text, part) in [
        ("", "no embedder"),
        ("gpt", "no embedder"),
        ("given:x", "no embedder"),
        ("hash:", "dimension"),
        ("hash:0", "dimension"),
        ("hash:99999999999999999999", "dimension"),
        ("hash:64;x", "dimension"),
        ("onnx:", "directory"),
        ("onnx", "directory"),
        ("command:", "missing"),
        ("command", "missing"),
        ("command:''", "missing"),
        ("command#m", "missing"),
        ("command#:x", "empty model"),
        ("command:'x", "quote"),
        ("command:x\0", "zero byte"),
        ("http://", "address"),
        ("http://#m", "address"),
        ("http://h o/v1#m", "address"),
        ("http://h/v1", "no model"),
        ("http://h/v1#", "no model"),
        ("http://h/v1#m;", "not known"),
        ("http://h/v1#m;batch=0", "1 to 2048"),
        ("http://h/v1#m;batch=1;batch=2", "twice"),
        ("http://h/v1#m;dimensions=5000", "dimension"),
        ("http://h/v1#m;passage=%2", "%"),
        ("http://h/v1#m;passage=%FF", "%"),
        ("http://h/v1#m;passage=%+1", "%"),
    ] {
        let message = parse(text).map(|spec| panic!("{text}: {spec:?}")).unwrap_err().to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn a_secret_is_refused_and_not_repeated() {
    for text in [
        "https://user:hunter2@h/v1#m",
        "https://h/v1?api-key=hunter2#m",
        "https://h/v1#m;key=sk-hunter2",
        "https://h/v1#m;key=hunter2",
        "https://h/v1#m;key=hf_hunter2",
    ] {
        let error = parse(text).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn what_is_this_machine_is_known() {
    for (base, local) in [
        ("http://localhost:1", true),
        ("http://LOCALHOST/v1", true),
        ("http://127.0.0.1:8080/v1", true),
        ("http://127.9.9.9", true),
        ("http://[::1]:8080/v1", true),
        ("http://localhost.example.org/v1", false),
        ("http://127.0.0.1.example.org", false),
        ("http://10.0.0.1", false),
    ] {
        let spec = HttpSpec::new(base, "m");
        assert_eq!(spec.is_local(), local, "{base}");
        assert_eq!(spec.is_exposed(), !local, "{base}");
    }
    assert!(!HttpSpec::new("https://example.org", "m").is_exposed());
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["\\PC{1,12}", "[ ;:%#='\"\\\\a\n]{1,8}"]
}

fn spec() -> impl Strategy<Value = EmbedderSpec> {
    let number = || proptest::option::of((1usize..=2048).prop_map(|n| NonZeroUsize::new(n).unwrap()));
    let key = prop_oneof![
        Just(KeySource::Default),
        Just(KeySource::None),
        "[A-Z_][A-Z0-9_]{0,9}".prop_map(KeySource::Variable)
    ];
    let prefix = || prop_oneof![Just(String::new()), text()];
    let http = (text(), key, number(), number(), prefix(), prefix()).prop_map(
        |(model, key, d, batch, passage, query)| {
            let spec = HttpSpec::new("https://example.org:8443/a/v1", model);
            EmbedderSpec::Http(HttpSpec { key, dimensions: d, batch, passage, query, ..spec })
        },
    );
    let command = (text(), proptest::collection::vec(prefix(), 0..4), proptest::option::of(text())).prop_map(
        |(program, rest, model)| {
            let command = std::iter::once(program).chain(rest).collect();
            EmbedderSpec::Command(CommandSpec { command, model })
        },
    );
    prop_oneof![
        Just(EmbedderSpec::Given),
        (8usize..=4096).prop_map(|dimension| EmbedderSpec::Hash { dimension }),
        text().prop_map(|directory| EmbedderSpec::Onnx { directory }),
        http,
        command,
    ]
}

proptest! {
    #[test]
    fn what_is_displayed_is_read_again_as_the_same(spec in spec()) {
        let text = spec.to_string();
        prop_assert_eq!(parse(&text), Ok(spec.clone()), "{}", text);
        let json = serde_json::to_string(&spec).unwrap();
        prop_assert_eq!(serde_json::from_str::<EmbedderSpec>(&json).unwrap(), spec);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "(http://h/v1#|command[:#]|hash|onnx)?\\PC{0,30}") {
        if let Ok(spec) = parse(&text) {
            prop_assert_eq!(parse(&spec.to_string()), Ok(spec));
        }
    }
}
