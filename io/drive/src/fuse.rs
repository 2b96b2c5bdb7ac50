//! The end of the process when an invariant breaks.

use std::sync::{Mutex, MutexGuard};

/// While it lives, a panic of this thread ends the process: the state it guards can no longer be trusted, and a
/// process that is gone answers nothing (DESIGN: a broken invariant ends the process fail-closed).
pub struct Fuse(pub &'static str);

impl Drop for Fuse {
    fn drop(&mut self) {
        if std::thread::panicking() {
            crate::log::last_words(self.0);
            std::process::abort();
        }
    }
}

/// Takes a lock; one that a panic left behind ends the process.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|_| {
        crate::log::last_words("a lock was left behind by a panic");
        std::process::abort()
    })
}
