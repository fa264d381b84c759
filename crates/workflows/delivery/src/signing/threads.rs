//! Threads that sign by RSA, one message after the other.
//!
//! They are the module's own rather than the runtime's for work that blocks: a thread that has finished takes the next
//! message at once, where a permit that is handed back wakes a task, which then wakes a thread, and the core idles
//! meanwhile.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A number of threads and what they are to do, first come, first served.
///
/// Each connection to a next hop has one message to be signed at most, so their number bounds what waits. The threads
/// end when this is dropped, after what waits then.
#[derive(Debug)]
pub(super) struct Threads {
    number: usize,
    shared: Arc<Waiting>,
}

#[derive(Default)]
struct Waiting {
    state: Mutex<State>,
    came: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    started: usize,
    idle: usize,
    ended: bool,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}

/// The work was not done: it panicked, or no thread could be started.
#[derive(Debug)]
pub(super) struct NotDone;

impl Threads {
    /// At most `number` threads, at least one; each is started when there is more to do than those before it can.
    pub(super) fn new(number: usize) -> Self {
        Self { number: number.max(1), shared: Arc::default() }
    }

    /// Has it done by one of the threads.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NotDone> {
        let (done, result) = oneshot::channel();
        self.push(Box::new(move || {
            // Who waits hears of a panic by the sender that is gone.
            let _ = done.send(work());
        }));
        result.await.map_err(|_| NotDone)
    }

    fn push(&self, job: Job) {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() || state.started >= self.number {
            drop(state);
            self.shared.came.notify_one();
            return;
        }
        let shared = self.shared.clone();
        let spawned = std::thread::Builder::new().name("sign".to_owned()).spawn(move || shared.work());
        if spawned.is_ok() {
            state.started += 1;
        } else if state.started == 0 {
            // Nobody would ever do it: who waits is told.
            state.jobs.clear();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.shared.came.notify_all();
    }
}

impl Waiting {
    fn work(&self) {
        while let Some(job) = self.next() {
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if state.ended {
                return None;
            }
            state.idle += 1;
            state = self.came.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::sync::Barrier;

    #[tokio::test]
    async fn as_many_threads_as_there_is_work_for_and_no_more() {
        let threads = Arc::new(Threads::new(2));
        assert_eq!(threads.run(|| 1).await.unwrap(), 1);
        // The two meet, so each is on a thread of its own.
        let meet = Arc::new(Barrier::new(2));
        let one = |meet: Arc<Barrier>| {
            let threads = threads.clone();
            tokio::spawn(async move {
                let meeting = move || {
                    meet.wait();
                    std::thread::current().id()
                };
                threads.run(meeting).await.unwrap()
            })
        };
        let met = [one(meet.clone()), one(meet)];
        let mut seen = HashSet::new();
        for one in met {
            seen.insert(one.await.unwrap());
        }
        for _ in 0..20 {
            seen.insert(threads.run(|| std::thread::current().id()).await.unwrap());
        }
        assert_eq!(seen.len(), 2);
    }

    #[tokio::test]
    async fn a_panic_ends_its_own_work_only() {
        let threads = Threads::new(1);
        assert!(threads.run(|| panic!("of the test")).await.is_err());
        assert_eq!(threads.run(|| 2).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn what_waits_is_done_after_the_threads_are_given_up() {
        let threads = Threads::new(1);
        let meet = Arc::new(Barrier::new(2));
        let (first, second) = (meet.clone(), Arc::new(Mutex::new(false)));
        threads.push(Box::new(move || {
            first.wait();
        }));
        let (done, result) = oneshot::channel();
        let at = second.clone();
        threads.push(Box::new(move || {
            *at.lock().unwrap() = true;
            let _ = done.send(());
        }));
        drop(threads);
        meet.wait();
        result.await.unwrap();
        assert!(*second.lock().unwrap());
    }
}
