//! The queue of one disk lane: many push under the machine's lock, one thread pops.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};

use crate::fuse::lock;

/// First in, first out, with one sleeping consumer.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    ready: Condvar,
    waiting: AtomicUsize,
}

struct State<T> {
    items: VecDeque<T>,
    asleep: bool,
    closed: bool,
}

impl<T> Queue<T> {
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State { items: VecDeque::new(), asleep: false, closed: false }),
            ready: Condvar::new(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Appends; true when the consumer sleeps and [`Queue::wake`] has to follow. The two are apart so that the caller
    /// can give its own lock back first.
    #[must_use]
    pub fn push(&self, item: T) -> bool {
        let mut state = lock(&self.state);
        state.items.push_back(item);
        self.waiting.store(state.items.len(), Ordering::Release);
        state.asleep
    }

    pub fn wake(&self) {
        self.ready.notify_one();
    }

    /// Whether something waits.
    pub fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// The next item, waiting for it; `None` once the queue is closed and empty.
    pub fn pop(&self) -> Option<T> {
        let mut state = lock(&self.state);
        loop {
            if let Some(item) = state.items.pop_front() {
                self.waiting.store(state.items.len(), Ordering::Release);
                return Some(item);
            }
            if state.closed {
                return None;
            }
            state.asleep = true;
            state = self.ready.wait(state).unwrap_or_else(|_| std::process::abort());
            state.asleep = false;
        }
    }

    /// Lets the consumers end once the queue is empty.
    pub fn close(&self) {
        lock(&self.state).closed = true;
        self.ready.notify_all();
    }
}
