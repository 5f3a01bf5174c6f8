//! The demo ends well.

mod common;

use common::plimsoll;

#[test]
fn the_demo_loses_nothing_and_answers_exactly() {
    let report = plimsoll(["demo", "--json"]).json().remove(0);
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(report["survivors"]["lost"], 0);
    assert_eq!(report["survivors"]["invented"], 0);
    assert_eq!(report["answers"]["equal_to_exact"], 40);
    let acknowledged = report["crash"]["acknowledged"].as_u64().unwrap();
    assert!((1500..3000).contains(&acknowledged), "{acknowledged}");
    let text = plimsoll(["demo"]).ok();
    for words in ["SIGKILL", "0 of", "wal_drain", "manifest_publish", "“", "Verified", "All is well."] {
        assert!(text.contains(words), "{words:?} is missing: {text}");
    }
}
