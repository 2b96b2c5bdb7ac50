//! Work on bodies, kept off the threads that serve connections when it takes long.

use crate::bounds;

/// Runs `work`, which takes a time that grows with `size`; `None` when its thread is gone.
pub async fn run<T: Send + 'static>(size: usize, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if size <= bounds::SMALL { Some(work()) } else { tokio::task::spawn_blocking(work).await.ok() }
}
