//! An embedder that tries again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Breaker, Permit, Policies};
use crate::embed::{Embedded, Embedder, TextKind};
use crate::failure::{Failure, FailureClass};

/// How a thread waits.
pub trait Wait: Send + Sync {
    /// Waits for a time. False: the wait was cut short, and nothing should be tried again.
    fn wait(&self, time: Duration) -> bool;
}

/// Waits that can be cut short, as when a program is interrupted.
#[derive(Debug, Default)]
pub struct Pause {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Pause {
    /// Ends all waits, those that come later too.
    pub fn stop(&self) {
        *self.stopped.lock() = true;
        self.changed.notify_all();
    }
}

impl Wait for Pause {
    fn wait(&self, time: Duration) -> bool {
        let begin = Instant::now();
        let mut stopped = self.stopped.lock();
        while !*stopped {
            let Some(rest) = time.checked_sub(begin.elapsed()).filter(|rest| !rest.is_zero()) else {
                return true;
            };
            self.changed.wait_for(&mut stopped, rest);
        }
        false
    }
}

/// Calls an embedder until it works, as the policies say, and leaves it alone while its breaker is open.
///
/// Texts that failed on their own are tried again without the others. What is left when nothing is tried any more is
/// returned as it came last.
pub struct Patient<E> {
    inner: E,
    policies: Policies,
    breaker: Arc<Breaker>,
    wait: Arc<dyn Wait>,
    seed: AtomicU64,
    retries: AtomicU64,
}

impl<E> Patient<E> {
    /// An embedder that tries again. The breaker can be shared by all who use the same service; `seed` decides what the
    /// policies leave to chance.
    pub fn new(inner: E, policies: Policies, breaker: Arc<Breaker>, wait: Arc<dyn Wait>, seed: u64) -> Self {
        Self { inner, policies, breaker, wait, seed: AtomicU64::new(seed), retries: AtomicU64::new(0) }
    }

    /// How many calls were made that were not the first for their texts.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Relaxed)
    }

    /// The embedder that is called.
    pub fn inner(&self) -> &E {
        &self.inner
    }

    /// Waits until the breaker lets a call through.
    fn permit(&self) -> Result<Permit<'_>, Failure> {
        loop {
            match self.breaker.admit() {
                Ok(permit) => return Ok(permit),
                Err(time) if self.wait.wait(time) => {}
                Err(_) => {
                    let message =
                        "the embedder fails too often to be asked now, and the wait for it was cut short";
                    return Err(Failure::new(FailureClass::Unknown, message));
                }
            }
        }
    }

    /// Waits before another try after a failure. Whether there is to be one.
    fn again(&self, failure: &Failure, tries: u32) -> bool {
        let seed = self.seed.fetch_add(1, Ordering::Relaxed);
        let Some(delay) = self.policies.delay(failure, tries, seed) else { return false };
        tracing::debug!(target: "plimsoll::embed", %failure, tries, ?delay, "trying again");
        let again = self.wait.wait(delay);
        if again {
            self.retries.fetch_add(1, Ordering::Relaxed);
        }
        again
    }

    fn is_hopeless(&self, result: &Embedded) -> bool {
        result.as_ref().err().is_none_or(|failure| self.policies.of(failure.class).retries == 0)
    }
}

/// Whether a failure says that the service is not well.
fn is_of_the_service(failure: &Failure) -> bool {
    !matches!(failure.class, FailureClass::Validation | FailureClass::Encoding | FailureClass::Memory)
}

fn tell(permit: Permit<'_>, failed: bool) {
    if failed { permit.failed() } else { permit.succeeded() }
}

/// The failure among these that asks for the longest wait.
fn slowest<'a>(failures: impl Iterator<Item = &'a Failure>) -> Option<Failure> {
    failures.max_by_key(|failure| failure.retry_after).cloned()
}

impl<E: Embedder> Embedder for Patient<E> {
    fn model(&self) -> &str {
        self.inner.model()
    }

    fn dimension(&self) -> Result<usize, Failure> {
        let mut tries = 0;
        loop {
            let permit = self.permit()?;
            let result = self.inner.dimension();
            tell(permit, result.as_ref().err().is_some_and(is_of_the_service));
            tries += 1;
            match result {
                Err(failure) if self.again(&failure, tries) => {}
                result => return result,
            }
        }
    }

    fn max_batch(&self) -> usize {
        self.inner.max_batch()
    }

    fn truncated(&self) -> Option<u64> {
        self.inner.truncated()
    }

    fn embed(&self, texts: &[&str], kind: TextKind) -> Result<Vec<Embedded>, Failure> {
        let mut results: Vec<Embedded> = Vec::new();
        // The places of the texts that the next call is about.
        let mut pending: Vec<usize> = (0..texts.len()).collect();
        let mut tries = 0;
        while !pending.is_empty() {
            let permit = match self.permit() {
                Ok(permit) => permit,
                Err(failure) if results.is_empty() => return Err(failure),
                Err(_) => break,
            };
            let asked: Vec<&str> = pending.iter().filter_map(|at| texts.get(*at).copied()).collect();
            let outcome = self.inner.embed(&asked, kind);
            tries += 1;
            match outcome {
                Err(failure) => {
                    tell(permit, is_of_the_service(&failure));
                    if self.again(&failure, tries) {
                        continue;
                    }
                    if pending.len() == texts.len() {
                        return Err(failure);
                    }
                    place(&mut results, &pending, vec![Err(failure.for_unasked()); asked.len()]);
                    break;
                }
                Ok(got) => {
                    let failed = !got.iter().any(Result::is_ok)
                        && got.iter().filter_map(|result| result.as_ref().err()).any(is_of_the_service);
                    tell(permit, failed);
                    place(&mut results, &pending, got);
                    pending.retain(|at| results.get(*at).is_some_and(|result| !self.is_hopeless(result)));
                    let failures = pending.iter().filter_map(|at| results.get(*at)?.as_ref().err());
                    match slowest(failures) {
                        Some(failure) if self.again(&failure, tries) => {}
                        _ => break,
                    }
                }
            }
        }
        Ok(results)
    }
}

/// Puts the results of a call in their places. The first call is about all texts.
fn place(results: &mut Vec<Embedded>, places: &[usize], got: Vec<Embedded>) {
    if results.is_empty() {
        *results = got;
        return;
    }
    for (at, result) in places.iter().zip(got) {
        if let Some(place) = results.get_mut(*at) {
            *place = result;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embed::HashEmbedder;
    use crate::retry::breaker::tests::TestClock;

    /// An embedder that follows a script, and counts.
    #[derive(Default)]
    struct Scripted {
        script: Mutex<Vec<Result<Vec<Option<Failure>>, Failure>>>,
        asked: Mutex<Vec<Vec<String>>>,
    }

    impl Embedder for Scripted {
        fn model(&self) -> &'static str {
            "scripted"
        }

        fn dimension(&self) -> Result<usize, Failure> {
            self.embed(&["dimension"], TextKind::Passage).map(|_| 8)
        }

        fn max_batch(&self) -> usize {
            8
        }

        fn embed(&self, texts: &[&str], kind: TextKind) -> Result<Vec<Embedded>, Failure> {
            self.asked.lock().push(texts.iter().map(|&text| text.into()).collect());
            let mut script = self.script.lock();
            let right = HashEmbedder::new(8)?.embed(texts, kind)?;
            if script.is_empty() {
                return Ok(right);
            }
            let faults = script.remove(0)?;
            Ok(right.into_iter().zip(faults).map(|(vector, fault)| fault.map_or(vector, Err)).collect())
        }
    }

    /// Waits by moving a clock.
    struct TestWait {
        clock: Arc<TestClock>,
        waits: Mutex<Vec<Duration>>,
        allowed: usize,
    }

    impl Wait for TestWait {
        fn wait(&self, time: Duration) -> bool {
            let mut waits = self.waits.lock();
            if waits.len() == self.allowed {
                return false;
            }
            waits.push(time);
            self.clock.advance(time);
            true
        }
    }

    type Script = Vec<Result<Vec<Option<Failure>>, Failure>>;

    fn patient(script: Script, allowed: usize) -> (Patient<Scripted>, Arc<TestWait>) {
        let clock = Arc::new(TestClock::default());
        let wait = Arc::new(TestWait { clock: Arc::clone(&clock), waits: Mutex::default(), allowed });
        let inner = Scripted { script: Mutex::new(script), asked: Mutex::default() };
        let breaker = Arc::new(Breaker::new(clock));
        let patient = Patient::new(inner, Policies::default(), breaker, Arc::<TestWait>::clone(&wait), 7);
        (patient, wait)
    }

    fn failure(class: FailureClass) -> Failure {
        Failure::new(class, class.name())
    }

    fn right(texts: &[&str]) -> Vec<Embedded> {
        HashEmbedder::new(8).unwrap().embed(texts, TextKind::Passage).unwrap()
    }

    #[test]
    fn a_failure_that_passes_is_not_seen() {
        let mut limit = failure(FailureClass::RateLimit);
        limit.retry_after = Some(Duration::from_secs(20));
        let (patient, wait) = patient(vec![Err(failure(FailureClass::Network)), Err(limit)], 9);
        assert_eq!(patient.embed(&["a b", "c"], TextKind::Passage).unwrap(), right(&["a b", "c"]));
        assert_eq!(patient.retries(), 2);
        assert!(wait.waits.lock()[1] >= Duration::from_secs(20), "{:?}", wait.waits.lock());
        assert_eq!(patient.dimension(), Ok(8));
    }

    #[test]
    fn only_the_texts_that_failed_are_asked_again() {
        let (network, validation) = (failure(FailureClass::Network), failure(FailureClass::Validation));
        let script = vec![
            Ok(vec![None, Some(validation.clone()), Some(network.clone()), Some(network)]),
            Ok(vec![None, None]),
        ];
        let (patient, _) = patient(script, 9);
        let mut expected = right(&["a", "b", "c", "d"]);
        expected[1] = Err(validation);
        assert_eq!(patient.embed(&["a", "b", "c", "d"], TextKind::Passage).unwrap(), expected);
        assert_eq!(*patient.inner().asked.lock(), [vec!["a", "b", "c", "d"], vec!["c", "d"]]);
    }

    #[test]
    fn what_does_not_pass_is_returned_as_it_came_last() {
        let network = || failure(FailureClass::Network);
        let (whole, wait) = patient((0..9).map(|_| Err(network())).collect(), 9);
        assert_eq!(whole.embed(&["a"], TextKind::Passage), Err(network()));
        assert_eq!(wait.waits.lock().len(), 3, "three retries");
        let script = vec![Ok(vec![None, Some(network())]), Err(failure(FailureClass::Validation))];
        let (part, _) = patient(script, 9);
        let results = part.embed(&["a", "b"], TextKind::Passage).unwrap();
        assert_eq!(results[0], right(&["a"])[0]);
        assert_eq!(
            results[1].as_ref().unwrap_err().class,
            FailureClass::Unknown,
            "it is not the text that is wrong"
        );
        let (never, wait) = patient(vec![Err(failure(FailureClass::Validation))], 9);
        assert!(never.embed(&["a"], TextKind::Passage).is_err());
        assert!(wait.waits.lock().is_empty());
    }

    #[test]
    fn an_open_breaker_is_waited_for() {
        let (patient, wait) = patient((0..5).map(|_| Err(failure(FailureClass::Timeout))).collect(), 99);
        assert!(patient.embed(&["a"], TextKind::Passage).is_err(), "four calls");
        assert_eq!(patient.embed(&["a"], TextKind::Passage).unwrap(), right(&["a"]));
        let waits = wait.waits.lock();
        assert!(waits.iter().sum::<Duration>() >= Breaker::OPEN_FOR, "{waits:?}");
    }

    #[test]
    fn a_wait_that_is_cut_short_ends_the_call() {
        let (patient, _) = patient(vec![Err(failure(FailureClass::Network)); 9], 1);
        assert_eq!(patient.embed(&["a"], TextKind::Passage), Err(failure(FailureClass::Network)));
        assert_eq!(patient.inner().asked.lock().len(), 2);
    }

    #[test]
    fn a_pause_ends_when_it_is_stopped() {
        let pause = Arc::new(Pause::default());
        assert!(pause.wait(Duration::from_millis(1)));
        let other = Arc::clone(&pause);
        let waiting = std::thread::spawn(move || other.wait(Duration::from_secs(3600)));
        pause.stop();
        assert!(!waiting.join().unwrap());
        assert!(!pause.wait(Duration::from_secs(3600)));
    }
}
