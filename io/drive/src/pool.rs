//! A few threads, made at the start, for work that takes its time. None is made later, so that a limit on
//! threads cannot break a decision (FAULTS X07).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

use std::collections::VecDeque;

use crate::fuse::lock;

/// A piece of work for a thread of the pool.
pub type Job = Box<dyn FnOnce() + Send>;

struct Shared {
    state: Mutex<State>,
    ready: Condvar,
}

struct State {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// A fixed number of threads over one queue. The queue's length is bounded by those who submit: each call
/// and each bundle has at most one job.
pub struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Pool {
    /// Starts `threads` threads, at least one, with `stack_bytes` of stack each.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(threads: usize, stack_bytes: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State { jobs: VecDeque::new(), closed: false }),
            ready: Condvar::new(),
        });
        let mut started = Vec::new();
        for n in 0..threads.max(1) {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new().name(format!("worker-{n}")).stack_size(stack_bytes);
            started.push(thread.spawn(move || shared.run())?);
        }
        Ok(Self { shared, threads: Mutex::new(started) })
    }

    /// Puts a job at the end of the queue. A panic in it ends the job, not the thread.
    pub fn submit(&self, job: Job) {
        lock(&self.shared.state).jobs.push_back(job);
        self.shared.ready.notify_one();
    }

    /// Lets the threads finish what is queued, and waits for them.
    pub fn close(&self) {
        lock(&self.shared.state).closed = true;
        self.shared.ready.notify_all();
        for thread in std::mem::take(&mut *lock(&self.threads)) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let job = {
                let mut state = lock(&self.state);
                loop {
                    if let Some(job) = state.jobs.pop_front() {
                        break job;
                    }
                    if state.closed {
                        return;
                    }
                    state = self.ready.wait(state).unwrap_or_else(|_| std::process::abort());
                }
            };
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn x02_a_panic_in_a_job_leaves_the_thread_alive() {
        let pool = Pool::start(1, 1 << 20).unwrap();
        let (tell, told) = channel();
        pool.submit(Box::new(|| panic!("a poisoned job")));
        pool.submit(Box::new(move || tell.send(7).unwrap()));
        assert_eq!(told.recv(), Ok(7));
        pool.close();
    }
}
