//! Group commit: of the threads that wait, one does the work of all.
//!
//! **Owns** who leads, what belongs to a group, and waking. **Must not know** what the work is. **On a crash**
//! it is gone; the leader's closure makes durable what is acknowledged.
//!
//! A thread that submits joins the group that is still open, or opens one and is its leader. Groups are led
//! one at a time, in the order in which they were opened. A group stays open until its turn comes, so while
//! one group syncs, the next one fills. The end of a group costs two wake-ups: one for the next leader, one
//! (to all at once) for the group's followers.

use std::collections::VecDeque;
use std::mem::take;
use std::sync::{Arc, PoisonError};

use plimsoll_base::sync::{Condvar, Mutex, MutexGuard};

/// How large a group may become. One item always fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimits {
    /// The most items.
    pub items: usize,
    /// The largest sum of weights, typically bytes.
    pub weight: u64,
}

impl Default for GroupLimits {
    fn default() -> Self {
        Self { items: 1024, weight: 16 << 20 }
    }
}

/// The leader of the group panicked (or did not return a result for this item): whether the work was done is
/// unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the thread that committed for this group panicked")]
pub struct LeaderPanicked;

/// Combines the work `W` of many threads into groups; each item has a result `R`.
#[derive(Debug)]
pub struct GroupCommit<W, R> {
    limits: GroupLimits,
    queue: Mutex<Queue<W, R>>,
}

#[derive(Debug)]
struct Queue<W, R> {
    /// Whether some group is being led.
    busy: bool,
    /// Groups whose turn has not come; only the last one is open.
    waiting: VecDeque<Waiting<W, R>>,
}

#[derive(Debug)]
struct Waiting<W, R> {
    items: Vec<W>,
    weight: u64,
    group: Arc<Group<R>>,
}

/// What the members of a group wait for.
#[derive(Debug)]
struct Group<R> {
    state: Mutex<State<R>>,
    turn: Condvar,
    done: Condvar,
}

#[derive(Debug)]
struct State<R> {
    is_turn: bool,
    results: Option<Vec<Option<R>>>,
}

/// What a submitting thread has to do.
enum Role<W, R> {
    LeadNow(Vec<W>),
    LeadLater(Arc<Group<R>>),
    Follow(Arc<Group<R>>, usize),
}

impl<W, R> GroupCommit<W, R> {
    /// No work yet.
    pub fn new(limits: GroupLimits) -> Self {
        Self { limits, queue: Mutex::new(Queue { busy: false, waiting: VecDeque::new() }) }
    }

    /// Adds `work` to a group and returns its result. If this thread leads the group, it calls `lead` with
    /// all items in the order of submission; `lead` returns one result for each, in the same order. Calls of
    /// `lead` never overlap.
    ///
    /// # Errors
    /// [`LeaderPanicked`] if the thread that led the group panicked. The panic itself goes on in that thread,
    /// and later groups are not affected.
    pub fn submit(
        &self,
        work: W,
        weight: u64,
        lead: impl FnOnce(Vec<W>) -> Vec<R>,
    ) -> Result<R, LeaderPanicked> {
        match self.enter(work, weight) {
            Role::LeadNow(items) => {
                let _turn = Turn { commit: self, group: None, results: Vec::new() };
                lead(items).into_iter().next().ok_or(LeaderPanicked)
            }
            Role::LeadLater(group) => {
                drop(wait(&group.turn, lock(&group.state), |state| state.is_turn));
                let mut turn = Turn { commit: self, group: Some(&group), results: Vec::new() };
                let mut results = lead(self.close(&group)).into_iter();
                let own = results.next().ok_or(LeaderPanicked);
                turn.results = results.map(Some).collect();
                own
            }
            Role::Follow(group, index) => {
                let mut state = wait(&group.done, lock(&group.state), |state| state.results.is_some());
                let results = state.results.as_mut();
                results.and_then(|all| all.get_mut(index - 1)?.take()).ok_or(LeaderPanicked)
            }
        }
    }

    fn enter(&self, work: W, weight: u64) -> Role<W, R> {
        let mut queue = lock(&self.queue);
        if !queue.busy {
            queue.busy = true;
            return Role::LeadNow(vec![work]);
        }
        if let Some(open) = queue.waiting.back_mut()
            && open.items.len() < self.limits.items
            && open.weight.saturating_add(weight) <= self.limits.weight
        {
            open.items.push(work);
            open.weight += weight;
            return Role::Follow(Arc::clone(&open.group), open.items.len() - 1);
        }
        let state = Mutex::new(State { is_turn: false, results: None });
        let group = Arc::new(Group { state, turn: Condvar::new(), done: Condvar::new() });
        queue.waiting.push_back(Waiting { items: vec![work], weight, group: Arc::clone(&group) });
        Role::LeadLater(group)
    }

    /// Takes the items of the group whose turn it is; nobody joins it any more.
    fn close(&self, group: &Arc<Group<R>>) -> Vec<W> {
        let mut queue = lock(&self.queue);
        match queue.waiting.pop_front() {
            Some(front) if Arc::ptr_eq(&front.group, group) => front.items,
            _ => unreachable!("groups take their turns in order"),
        }
    }
}

/// The right to lead. Giving it up, also by a panic, passes it on and wakes the followers.
struct Turn<'a, W, R> {
    commit: &'a GroupCommit<W, R>,
    group: Option<&'a Group<R>>,
    /// Those of the followers; none if the leader panicked.
    results: Vec<Option<R>>,
}

impl<W, R> Drop for Turn<'_, W, R> {
    fn drop(&mut self) {
        let next = {
            let mut queue = lock(&self.commit.queue);
            let next = queue.waiting.front().map(|next| Arc::clone(&next.group));
            queue.busy = next.is_some();
            next
        };
        if let Some(next) = next {
            lock(&next.state).is_turn = true;
            next.turn.notify_one();
        }
        if let Some(group) = self.group {
            lock(&group.state).results = Some(take(&mut self.results));
            group.done.notify_all();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code of others runs under these locks, and every change is complete before one is released.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a, T>(
    condvar: &Condvar,
    mut guard: MutexGuard<'a, T>,
    done: impl Fn(&T) -> bool,
) -> MutexGuard<'a, T> {
    while !done(&guard) {
        guard = condvar.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
    guard
}

#[cfg(all(test, shuttle))]
mod schedules;
#[cfg(all(test, not(shuttle)))]
mod tests;
