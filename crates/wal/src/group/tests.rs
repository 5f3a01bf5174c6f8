use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;

use super::*;

#[test]
fn a_single_thread_leads_itself() {
    let group = GroupCommit::new(GroupLimits::default());
    for n in 0..100 {
        assert_eq!(group.submit(n, 1, |items| items.into_iter().map(|item| item * 2).collect()), Ok(n * 2));
    }
}

/// Every item is led once, gets its own result, and calls of `lead` never overlap; in every thread's order.
fn stress(threads: u64, rounds: u64, limits: GroupLimits, slow: bool) {
    // Miri looks at each access, and is slow.
    let (threads, rounds) = if cfg!(miri) { (threads.min(4), 4) } else { (threads, rounds) };
    let group = GroupCommit::new(limits);
    let (leading, led) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        for thread in 0..threads {
            let (group, leading, led) = (&group, &leading, &led);
            scope.spawn(move || {
                for round in 0..rounds {
                    let item = thread * rounds + round;
                    let result = group.submit(item, 3, |items| {
                        assert!(!leading.swap(true, SeqCst), "two leaders");
                        assert!(!items.is_empty() && items.len() <= limits.items.max(1));
                        assert!(items.len() == 1 || items.len() as u64 * 3 <= limits.weight);
                        led.fetch_add(items.len() as u64, SeqCst);
                        if slow && item.is_multiple_of(3) {
                            thread::yield_now();
                        }
                        leading.store(false, SeqCst);
                        items.into_iter().map(|item| item + 1).collect()
                    });
                    assert_eq!(result, Ok(item + 1));
                }
            });
        }
    });
    assert_eq!(led.into_inner(), threads * rounds);
}

#[test]
fn no_wake_up_is_lost_and_every_item_gets_its_own_result() {
    stress(2, 20_000, GroupLimits::default(), false);
    stress(16, 5_000, GroupLimits::default(), true);
    stress(64, 1_000, GroupLimits::default(), true);
    stress(16, 2_000, GroupLimits { items: 3, weight: 100 }, true);
    stress(16, 2_000, GroupLimits { items: 100, weight: 7 }, true);
    stress(8, 2_000, GroupLimits { items: 0, weight: 0 }, false);
}

#[test]
#[cfg_attr(miri, ignore = "minutes: Miri is slow to unwind, and this unwinds often")]
fn a_leader_that_panics_fails_its_group_and_nobody_hangs() {
    let group = GroupCommit::new(GroupLimits::default());
    let (done, failed, panicked) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let lead = |items: Vec<u64>| {
        thread::yield_now();
        assert!(!items.contains(&13), "as planned");
        items
    };
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for n in 0..200 {
                    let submit = std::panic::AssertUnwindSafe(|| group.submit(n % 50, 1, lead));
                    match std::panic::catch_unwind(submit) {
                        Ok(Ok(result)) => {
                            assert_eq!(result, n % 50);
                            done.fetch_add(1, SeqCst);
                        }
                        Ok(Err(LeaderPanicked)) => drop(failed.fetch_add(1, SeqCst)),
                        Err(_) => drop(panicked.fetch_add(1, SeqCst)),
                    }
                }
            });
        }
    });
    let all = done.load(SeqCst) + failed.load(SeqCst) + panicked.load(SeqCst);
    assert_eq!(all, 8 * 200);
    assert!(panicked.load(SeqCst) > 0 && done.load(SeqCst) > 0);
    assert_eq!(group.submit(1, 1, lead), Ok(1));
}

#[test]
fn a_leader_that_returns_too_few_results_fails_the_others() {
    let group: GroupCommit<u8, u8> = GroupCommit::new(GroupLimits::default());
    assert_eq!(group.submit(1, 1, |_| Vec::new()), Err(LeaderPanicked));
    assert_eq!(group.submit(1, 1, |items| items), Ok(1));
}
