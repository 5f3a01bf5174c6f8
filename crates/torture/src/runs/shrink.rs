//! Making a failing run small: steps, changes of batches and faults are left out while it still fails.

use std::time::{Duration, Instant};

use super::plan::{Plan, Step};

/// How long to look for something smaller.
const TIME: Duration = Duration::from_secs(60);

/// The smallest run found that `fails`.
pub(super) fn shrink(plan: &Plan, fails: impl Fn(&Plan) -> bool) -> Plan {
    let deadline = Instant::now() + TIME;
    let mut best = plan.clone();
    loop {
        let before = best.clone();
        drop_steps(&mut best, deadline, &fails);
        drop_parts(&mut best, deadline, &fails);
        if best == before || Instant::now() >= deadline {
            return best;
        }
    }
}

/// Leaves out steps, many at once first.
fn drop_steps(best: &mut Plan, deadline: Instant, fails: &impl Fn(&Plan) -> bool) {
    let mut chunk = best.steps.len().div_ceil(2);
    while chunk > 0 {
        let mut at = 0;
        while at < best.steps.len() && Instant::now() < deadline {
            let mut smaller = best.clone();
            smaller.steps.drain(at..(at + chunk).min(best.steps.len()));
            if fails(&smaller) {
                *best = smaller;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
}

/// Leaves out parts of steps.
fn drop_parts(best: &mut Plan, deadline: Instant, fails: &impl Fn(&Plan) -> bool) {
    let mut at = 0;
    while at < best.steps.len() && Instant::now() < deadline {
        let smaller = smaller_steps(&best.steps[at]).into_iter().find_map(|step| {
            let mut smaller = best.clone();
            smaller.steps[at] = step;
            fails(&smaller).then_some(smaller)
        });
        match smaller {
            Some(smaller) => *best = smaller,
            None => at += 1,
        }
    }
}

/// The step with one part less, in each way.
fn smaller_steps(step: &Step) -> Vec<Step> {
    match step {
        Step::Write { parts, durability } => {
            let mut all = Vec::new();
            for (p, (_, changes)) in parts.iter().enumerate() {
                if parts.len() > 1 {
                    let mut parts = parts.clone();
                    parts.remove(p);
                    all.push(Step::Write { parts, durability: *durability });
                }
                for c in 0..if changes.len() > 1 { changes.len() } else { 0 } {
                    let mut parts = parts.clone();
                    parts[p].1.remove(c);
                    all.push(Step::Write { parts, durability: *durability });
                }
            }
            all
        }
        Step::Flush(Some((file, inner))) => {
            fewer(inner, |inner| Step::Flush(inner.map(|inner| (*file, inner))))
        }
        Step::Compact(Some((file, inner))) => {
            fewer(inner, |inner| Step::Compact(inner.map(|inner| (*file, inner))))
        }
        Step::Crash { after, kind, again: Some(_) } => {
            vec![Step::Crash { after: *after, kind: *kind, again: None }]
        }
        _ => Vec::new(),
    }
}

/// Nothing injected, or one step less.
fn fewer(inner: &[Step], with: impl Fn(Option<Vec<Step>>) -> Step) -> Vec<Step> {
    let without =
        |n: usize| inner.iter().enumerate().filter(move |(m, _)| *m != n).map(|(_, step)| step.clone());
    let mut all = vec![with(None)];
    if inner.len() > 1 {
        all.extend((0..inner.len()).map(|n| with(Some(without(n).collect()))));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_shrunk_to_what_fails() {
        let plan = Plan::new(5);
        let writes =
            |plan: &Plan| plan.steps.iter().filter(|step| matches!(step, Step::Write { .. })).count();
        assert!(writes(&plan) > 5);
        let small = shrink(&plan, |plan| writes(plan) >= 2);
        assert_eq!((small.steps.len(), writes(&small)), (2, 2));
        let changes = |step: &Step| match step {
            Step::Write { parts, .. } => parts.iter().map(|(_, changes)| changes.len()).sum(),
            _ => 0,
        };
        assert_eq!(small.steps.iter().map(changes).sum::<usize>(), 2);
    }
}
