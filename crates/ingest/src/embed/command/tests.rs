use std::time::Instant;

use super::*;

/// Long enough for any machine; a test that waits for it has failed.
const LONG: Duration = Duration::from_secs(60);

fn embedder(script: &str, timeout: Duration) -> CommandEmbedder {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    CommandEmbedder::new(CommandSpec { command, model: Some("m".into()) }, timeout).unwrap()
}

fn embed(embedder: &CommandEmbedder, texts: &[&str]) -> Result<Vec<Embedded>, Failure> {
    embedder.embed(texts, TextKind::Passage)
}

/// Answers each line with as many vectors as it has texts, by counting commas; texts must have none.
const COUNT: &str = r#"
    answer() {
        list=${line#*texts\":[}; list=${list%%]*}
        n=$(printf %s "$list" | tr -cd , | wc -c)
        v="[1,2]"; i=0; while [ $i -lt $n ]; do v="$v,[3,4]"; i=$((i+1)); done
        printf '{"vectors":[%s]}\n' "$v"
    }
"#;

#[test]
fn a_program_is_started_once_and_serves_many_calls() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("starts");
    let script = format!("{COUNT} echo start >> {}; while read -r line; do answer; done", log.display());
    let embedder = embedder(&script, LONG);
    assert_eq!(embedder.dimension().unwrap(), 2);
    for _ in 0..3 {
        assert_eq!(embed(&embedder, &["a", "b"]).unwrap(), [Ok(vec![1.0, 2.0]), Ok(vec![3.0, 4.0])]);
    }
    assert_eq!(std::fs::read_to_string(log).unwrap(), "start\n");
    assert_eq!(embedder.model(), "m");
}

#[test]
fn a_text_that_kills_the_program_is_found_and_the_others_get_vectors() {
    let script =
        format!(r#"{COUNT} while read -r line; do case $line in *poison*) exit 3;; esac; answer; done"#);
    let embedder = embedder(&script, LONG);
    let results = embed(&embedder, &["a", "b", "poison", "d", "e"]).unwrap();
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true, true]);
    let failure = results[2].as_ref().unwrap_err();
    assert!(failure.message.contains("exit status: 3"), "{failure}");
    assert_eq!(embedder.deaths(), 0);
}

#[test]
fn an_error_or_null_is_the_fault_of_its_text() {
    let script = r#"while read -r line; do case $line in
        *poison*) printf '%s\n' '{"error": "can not\nread"}';; *none*) echo '{"vectors": [null]}';;
        *) echo '{"vectors": [[1]]}';; esac; done"#;
    let embedder = embedder(script, LONG);
    for (text, part) in [("poison", "says: can not read"), ("none", "no vector")] {
        let results = embed(&embedder, &[text]).unwrap();
        let failure = results[0].as_ref().unwrap_err();
        assert!(failure.message.contains(part) && failure.class == FailureClass::Validation, "{failure}");
    }
}

#[test]
fn a_program_that_takes_too_long_is_killed_with_what_it_started() {
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
    let embedder = embedder(&script, Duration::from_millis(500));
    let begin = Instant::now();
    let failure = embed(&embedder, &["a"]).unwrap_err();
    assert_eq!(failure.class, FailureClass::Timeout);
    assert!(begin.elapsed() < Duration::from_secs(500), "it did not wait for the child");
    // The shell was reaped. Its sleep was killed, too: it may be left as a zombie until its new parent looks.
    if let Ok(pid) = std::fs::read_to_string(&pid) {
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        while !(stat().is_empty() || stat().contains(") Z") || stat().contains(") X")) {
            assert!(begin.elapsed() < LONG, "{}", stat());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_program_that_always_dies_is_not_started_forever() {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("starts");
    let embedder = embedder(&format!("echo start >> {}", log.display()), LONG);
    let mut last = None;
    for _ in 0..20 {
        last = Some(embed(&embedder, &["a"]).unwrap_err());
    }
    assert_eq!(last.unwrap().class, FailureClass::Validation);
    assert_eq!(std::fs::read_to_string(log).unwrap().lines().count(), DEATHS as usize);
}

#[test]
fn a_program_that_is_not_there_is_a_wrong_configuration() {
    let command = vec!["/no/such/program".to_owned()];
    let embedder = CommandEmbedder::new(CommandSpec { command, model: None }, LONG).unwrap();
    let failure = embed(&embedder, &["a"]).unwrap_err();
    assert_eq!(failure.class, FailureClass::Validation);
    assert!(
        failure.message.contains("/no/such/program can not be started")
            || failure.message.contains("/no/such/program: can not"),
        "{failure}"
    );
}

#[test]
fn lines_that_are_no_answer_are_refused() {
    for (line, part) in [
        ("hello", "no answer"),
        ("{}", "neither"),
        (r#"{"vectors": []}"#, "0 vectors for 1"),
        (r#"{"vectors": [[1], [2]]}"#, "2 vectors for 1"),
        (r#"{"vectors": [[NaN]]}"#, "no answer"),
    ] {
        let embedder = embedder(&format!("while read -r line; do echo '{line}'; done"), LONG);
        let failure = embed(&embedder, &["a"]).unwrap_err();
        assert!(failure.message.contains(part), "{line}: {failure}");
    }
    let embedder = embedder("while read -r line; do echo '{\"vectors\": [[null]]}'; done", LONG);
    assert!(embed(&embedder, &["a"]).unwrap()[0].as_ref().unwrap_err().message.contains("not finite"));
}

#[test]
fn a_line_that_nobody_asked_for_is_not_taken_for_an_answer() {
    let command = ["sh", "-c", "read -r line; printf 'one\\ntwo\\n'; cat"].map(str::to_owned);
    // When the second line arrives is up to the machine: one of many times it is there before the next request.
    let found = (0..50).any(|_| {
        let mut child = Child::start(&command, 100).unwrap();
        assert_eq!(child.exchange(b"?\n".to_vec(), LONG), Ok(b"one\n".to_vec()));
        std::thread::sleep(Duration::from_millis(100));
        child.exchange(b"?\n".to_vec(), LONG) == Err(ChildError::Unasked)
    });
    assert!(found);
}

#[test]
fn a_line_without_end_is_cut_off() {
    let embedder = embedder("cat /dev/zero", LONG);
    let failure = embed(&embedder, &["a"]).unwrap_err();
    assert_eq!(failure.class, FailureClass::Memory, "{failure}");
}
