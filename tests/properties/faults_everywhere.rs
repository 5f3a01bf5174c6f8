//! Some of the calls into the disk of each kind of operation fail, in every way. All of them do so in
//! `plimsoll-torture matrix faults`.

use plimsoll_torture::{Campaign, faults};

#[test]
fn some_faults_of_each_operation() {
    let campaign = Campaign::new();
    faults::every(&campaign, 29);
    assert_eq!(campaign.violations(), []);
    let faults = campaign.counters.faults();
    for error in ["EIO", "ENOSPC", "EDQUOT", "EMFILE", "EACCES", "EROFS", "EINTR", "slow", "short", "done"] {
        assert!(faults.keys().any(|fault| fault.contains(error)), "{error} never struck: {faults:?}");
    }
}
