//! The production driver: it waits for an event or for the machine's deadline, lets the machine handle it,
//! and carries the effects out on the real disk and clock. No decision is made here.
//!
//! The machine sits behind one lock. Whoever brings an event (a task of the server, the thread of a disk
//! lane, a worker, the timer) takes the lock, lets the machine handle the event, moves the disk chains into the queue
//! of their lane while the lock is still held (so that they run in the order emitted), and carries out
//! the rest after giving the lock back. See [`driver::Driver`].

pub mod beneath;
pub mod clock;
pub mod disk;
pub mod driver;
mod fuse;
pub mod lock;
pub mod log;
pub mod once;
pub mod place;
pub mod pool;
pub mod pump;
pub mod quarantine;
mod queue;
mod timer;
