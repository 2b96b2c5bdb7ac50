//! Threads that serve one connection each.
//!
//! Where nothing else runs, a call may wait for the disk itself, and no other thread is woken because of it: a caller who
//! makes one call after another spares the scheduler's part of each. There are a few such threads, made at the start
//! (FAULTS X07); the connections beyond them share the runtime's workers.

use std::io;
use std::sync::mpsc::{self, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

use crate::node::this_thread_may_wait;
use crate::policies::{STACK_BYTES, this_thread_may_judge};

/// The threads. They end when this goes out of scope, and what they serve ends with them.
pub struct OwnThreads {
    free: Arc<Mutex<Vec<Handle>>>,
    _alive: watch::Sender<()>,
}

impl OwnThreads {
    /// Starts so many threads; none is a number too.
    ///
    /// # Errors
    /// When the system gives no thread or no descriptor.
    pub fn start(threads: usize) -> io::Result<Self> {
        let (alive, gone) = watch::channel(());
        let mut free = Vec::with_capacity(threads);
        for n in 0..threads {
            let gone = gone.clone();
            let (tell, told) = channel();
            let thread = thread::Builder::new().name(format!("own-{n}")).stack_size(STACK_BYTES);
            thread.spawn(move || run(&tell, gone))?;
            free.push(told.recv().map_err(io::Error::other)??);
        }
        Ok(Self { free: Arc::new(Mutex::new(free)), _alive: alive })
    }

    /// A thread that serves nobody, if there is one.
    pub fn take(&self) -> Option<Place> {
        let handle = held(&self.free).pop()?;
        Some(Place { handle, free: Arc::clone(&self.free) })
    }
}

/// One of the threads, until the sender of `gone` goes away.
fn run(tell: &mpsc::Sender<io::Result<Handle>>, mut gone: watch::Receiver<()>) {
    this_thread_may_judge();
    this_thread_may_wait();
    match Builder::new_current_thread().enable_io().enable_time().max_blocking_threads(1).build() {
        Ok(runtime) => {
            let _ = tell.send(Ok(runtime.handle().clone()));
            let _ = runtime.block_on(gone.changed());
        }
        Err(error) => drop(tell.send(Err(error))),
    }
}

/// Changed by single calls: a panic of another thread leaves it whole.
fn held(free: &Mutex<Vec<Handle>>) -> MutexGuard<'_, Vec<Handle>> {
    free.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread that was taken; it is given back when this goes out of scope.
pub struct Place {
    handle: Handle,
    free: Arc<Mutex<Vec<Handle>>>,
}

impl Place {
    /// Runs `serve` on the thread, and gives the thread back after it.
    pub fn run(self, serve: impl Future<Output = ()> + Send + 'static) {
        let handle = self.handle.clone();
        handle.spawn(async move {
            let _place = self;
            serve.await;
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        held(&self.free).push(self.handle.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_thread_serves_one_at_a_time_and_is_given_back_even_by_one_that_panics() {
        let threads = OwnThreads::start(1).unwrap();
        for panics in [true, false] {
            let place = threads.take().unwrap();
            assert!(threads.take().is_none());
            let (tell, told) = channel();
            place.run(async move {
                tokio::task::yield_now().await;
                tell.send(thread::current().name().map(str::to_owned)).unwrap();
                assert!(!panics, "a poisoned connection");
            });
            assert_eq!(told.recv().unwrap().as_deref(), Some("own-0"));
            while held(&threads.free).is_empty() {
                thread::yield_now();
            }
        }
        assert!(OwnThreads::start(0).unwrap().take().is_none());
    }

    #[test]
    fn what_a_thread_serves_ends_with_it() {
        let threads = OwnThreads::start(1).unwrap();
        let (tell, told) = channel::<()>();
        threads.take().unwrap().run(async move {
            std::future::pending::<()>().await;
            drop(tell);
        });
        drop(threads);
        assert!(told.recv().is_err());
    }
}
