//! The queue of one disk lane: many push under the machine's lock, one thread pops. While that thread sleeps and nothing
//! waits, whoever pushes may take the lane over for a while instead of waking it.

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
    /// Somebody else than the lane's thread runs its chains.
    taken_over: bool,
    closed: bool,
}

/// What became of an item.
pub enum Pushed<T> {
    /// It waits; the lane's thread or whoever took the lane over will come to it.
    Waits,
    /// It waits, and [`Queue::wake`] has to follow. The two are apart so that the caller can give its own lock back
    /// first.
    WaitsForWake,
    /// The caller has taken the lane over and runs this item; [`Queue::give_back`] has to follow.
    Yours(T),
}

impl<T> Queue<T> {
    pub fn new() -> Self {
        Self {
            state: Mutex::new(State { items: VecDeque::new(), asleep: false, taken_over: false, closed: false }),
            ready: Condvar::new(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// Appends, or hands the item back to a caller who would take the lane over.
    #[must_use]
    pub fn push(&self, item: T, would_take_over: bool) -> Pushed<T> {
        let mut state = lock(&self.state);
        if would_take_over && state.asleep && !state.taken_over && state.items.is_empty() {
            state.taken_over = true;
            return Pushed::Yours(item);
        }
        state.items.push_back(item);
        self.waiting.store(state.items.len(), Ordering::Release);
        if state.asleep && !state.taken_over { Pushed::WaitsForWake } else { Pushed::Waits }
    }

    /// The next item, for the one who took the lane over.
    pub fn next_of_mine(&self) -> Option<T> {
        let mut state = lock(&self.state);
        let item = state.items.pop_front();
        self.waiting.store(state.items.len(), Ordering::Release);
        item
    }

    /// Gives the lane back to its thread.
    pub fn give_back(&self) {
        let mut state = lock(&self.state);
        state.taken_over = false;
        let wake = state.asleep && (!state.items.is_empty() || state.closed);
        drop(state);
        if wake {
            self.wake();
        }
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
            if let Some(item) = if state.taken_over { None } else { state.items.pop_front() } {
                self.waiting.store(state.items.len(), Ordering::Release);
                return Some(item);
            }
            if state.closed && !state.taken_over {
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
