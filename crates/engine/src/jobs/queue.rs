//! The jobs that wait for their turn: who goes next, and who finds a place.
//!
//! Pure: the time is given, and what may run beside what is running is for the caller to say.

use std::time::Duration;

use super::model::{JobKind, JobPriority, JobTarget};

/// After how long a waiting job rises by a priority.
pub(super) const AGEING: Duration = Duration::from_secs(10);

/// What a queue needs to know of a job.
pub(super) trait Queued {
    fn kind(&self) -> JobKind;
    fn target(&self) -> &JobTarget;
    fn priority(&self) -> JobPriority;
}

/// Jobs that wait.
pub(super) struct Queue<J> {
    waiting: Vec<Waiting<J>>,
    capacity: usize,
    sequence: u64,
}

struct Waiting<J> {
    job: J,
    priority: JobPriority,
    sequence: u64,
    since: Duration,
    /// Its next attempt is not to begin sooner.
    not_before: Duration,
}

impl<J: Queued> Queue<J> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { waiting: Vec::new(), capacity, sequence: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether a job finds a place. What is critical always does.
    pub(super) fn has_room_for(&self, priority: JobPriority) -> bool {
        self.waiting.len() < self.capacity || priority == JobPriority::Critical
    }

    /// Adds a job, which is not to begin before `not_before`.
    pub(super) fn push(&mut self, job: J, now: Duration, not_before: Duration) {
        self.sequence += 1;
        let (priority, sequence) = (job.priority(), self.sequence);
        self.waiting.push(Waiting { job, priority, sequence, since: now, not_before });
    }

    /// The waiting job of that kind and target.
    pub(super) fn find(&self, kind: JobKind, target: &JobTarget) -> Option<&J> {
        self.jobs().find(|job| job.kind() == kind && job.target() == target)
    }

    pub(super) fn jobs(&self) -> impl Iterator<Item = &J> {
        self.waiting.iter().map(|waiting| &waiting.job)
    }

    /// Takes the first of the jobs that may run now: of the highest priority, and of these the one that came first.
    pub(super) fn take(&mut self, now: Duration, may_run: impl Fn(&J) -> bool) -> Option<J> {
        let ready = |waiting: &Waiting<J>| waiting.not_before <= now && may_run(&waiting.job);
        let candidates = self.waiting.iter().enumerate().filter(|(_, waiting)| ready(waiting));
        let rank = |waiting: &Waiting<J>| (waiting.effective(now), std::cmp::Reverse(waiting.sequence));
        let (first, _) = candidates.max_by_key(|(_, waiting)| rank(waiting))?;
        Some(self.waiting.swap_remove(first).job)
    }

    /// Takes the job that `chosen` names, wherever it stands.
    pub(super) fn remove(&mut self, chosen: impl Fn(&J) -> bool) -> Option<J> {
        let at = self.waiting.iter().position(|waiting| chosen(&waiting.job))?;
        Some(self.waiting.swap_remove(at).job)
    }

    /// Gives a job that waits no lower priority than that, and, if `at_once`, lets one that is not to begin yet begin.
    pub(super) fn hurry(&mut self, priority: JobPriority, at_once: bool, chosen: impl Fn(&J) -> bool) {
        for waiting in self.waiting.iter_mut().filter(|waiting| chosen(&waiting.job)) {
            if at_once {
                waiting.not_before = Duration::ZERO;
            }
            waiting.priority = waiting.priority.max(priority);
        }
    }

    /// When the first of the jobs that are not to begin yet may do so.
    pub(super) fn next_at(&self, now: Duration) -> Option<Duration> {
        self.waiting.iter().map(|waiting| waiting.not_before).filter(|at| *at > now).min()
    }
}

impl<J: Queued> Waiting<J> {
    /// Its priority, and what waiting has added to it.
    fn effective(&self, now: Duration) -> JobPriority {
        let priority = self.priority;
        if priority >= JobPriority::High {
            return priority;
        }
        let waited = now.saturating_sub(self.since.max(self.not_before));
        let steps = (waited.as_secs_f64() / AGEING.as_secs_f64()) as usize;
        let risen = (priority as usize).saturating_add(steps).min(JobPriority::High as usize);
        JobPriority::ALL[risen]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Job(u32, JobKind, JobPriority);

    impl Queued for Job {
        fn kind(&self) -> JobKind {
            self.1
        }

        fn target(&self) -> &JobTarget {
            &JobTarget::Database
        }

        fn priority(&self) -> JobPriority {
            self.2
        }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn queue(jobs: &[(u32, JobPriority, u64)]) -> Queue<Job> {
        let mut queue = Queue::new(100);
        for (id, priority, since) in jobs {
            queue.push(Job(*id, JobKind::Flush, *priority), at(*since), Duration::ZERO);
        }
        queue
    }

    fn order(queue: &mut Queue<Job>, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| queue.take(at(now), |_| true)).map(|job| job.0).collect()
    }

    #[test]
    fn the_highest_priority_goes_first_and_the_first_of_it() {
        use JobPriority::{Critical, High, Low, Normal};
        let mut queue = queue(&[
            (1, Low, 0),
            (2, Normal, 0),
            (3, Critical, 0),
            (4, High, 0),
            (5, Normal, 0),
            (6, High, 0),
            (7, Low, 0),
            (8, Critical, 0),
        ]);
        assert_eq!(order(&mut queue, 0), [3, 8, 4, 6, 2, 5, 1, 7]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn who_waits_rises_to_high_and_no_further() {
        use JobPriority::{Critical, High, Low, Normal};
        // After ten seconds low is normal, and came before the other normal one.
        assert_eq!(order(&mut queue(&[(1, Low, 0), (2, Normal, 10)]), 10), [1, 2]);
        assert_eq!(order(&mut queue(&[(1, Low, 0), (2, Normal, 9)]), 9), [2, 1]);
        assert_eq!(order(&mut queue(&[(1, Low, 0), (2, High, 20)]), 20), [1, 2]);
        assert_eq!(order(&mut queue(&[(1, Low, 0), (2, Critical, 999)]), 1000), [2, 1]);
    }

    #[test]
    fn a_job_that_is_not_to_begin_yet_or_may_not_run_stays() {
        let mut queue = queue(&[(1, JobPriority::High, 0)]);
        queue.push(Job(2, JobKind::Verify, JobPriority::Critical), at(0), at(5));
        assert_eq!(queue.next_at(at(0)), Some(at(5)));
        assert!(queue.take(at(0), |job| job.kind() == JobKind::Verify).is_none());
        assert_eq!(queue.take(at(0), |_| true).unwrap().0, 1);
        assert!(queue.take(at(4), |_| true).is_none());
        assert_eq!(queue.take(at(5), |_| true).unwrap().0, 2);
        queue.push(Job(3, JobKind::Flush, JobPriority::Low), at(5), at(50));
        queue.push(Job(4, JobKind::Flush, JobPriority::Normal), at(5), at(5));
        queue.push(Job(5, JobKind::Flush, JobPriority::Low), at(5), at(50));
        queue.hurry(JobPriority::High, true, |job| job.0 == 3);
        queue.hurry(JobPriority::Critical, false, |job| job.0 == 5);
        assert_eq!(order(&mut queue, 5), [3, 4]);
        assert_eq!(order(&mut queue, 50), [5]);
    }

    #[test]
    fn a_full_queue_takes_only_what_is_critical() {
        let mut queue = Queue::new(2);
        for id in 0..2 {
            assert!(queue.has_room_for(JobPriority::Low));
            queue.push(Job(id, JobKind::Flush, JobPriority::Low), at(0), at(0));
        }
        assert!(!queue.has_room_for(JobPriority::High));
        assert!(queue.has_room_for(JobPriority::Critical));
        assert!(queue.remove(|job| job.0 == 1).is_some());
        assert!(queue.remove(|job| job.0 == 1).is_none());
        assert!(queue.has_room_for(JobPriority::Low));
    }
}
