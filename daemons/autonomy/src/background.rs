//! The drain in the background of a runtime: a thread of its own beside the node, with its own view of the log's folder.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use daemon_common::failure::Failure;
use io_drive::disk::{Disk, Layout};
use io_drive::log::Log;
use io_drive::pump::{self, Feed, Inbox};
use io_node::metrics::Metrics;
use io_telemetry::Exporter;
use machines::drain::{Config, Drain, Input, Output as Said, Until};
use machines::machine::{Event, Level, Note};
use tokio::runtime::Handle;

use crate::telemetry::{Outlet, Tell};

/// A drain that runs.
pub struct Background {
    feed: Feed<Input>,
    thread: JoinHandle<()>,
}

impl Background {
    /// Starts delivering the log in this folder.
    ///
    /// # Errors
    /// When the folder cannot be opened, or the system gives no thread.
    pub fn start(folder: &Path, exporter: Exporter, metrics: Arc<Metrics>, log: Log) -> Result<Self, Failure> {
        let disk = Disk::open_existing(&Layout::log(folder)).map_err(|error| Failure::refused(error.to_string()))?;
        let disk = Arc::new(disk);
        let inbox = Inbox::default();
        let feed = inbox.feed();
        let tell = Logger { metrics, log, last: None };
        let mut outlet = Outlet { exporter: Arc::new(exporter), handle: Handle::current(), tell };
        let config = Config { until: Until::Stopped, ..Config::default() };
        let thread = std::thread::Builder::new().name("drain".to_owned()).spawn(move || {
            if let Err(error) = pump::run(Drain::new(config), &disk, &inbox, &mut outlet) {
                log.note(&Note::new(Level::Error, "drain.ended").with("reason", error.to_string()));
            }
        });
        let thread = thread.map_err(|error| Failure::refused(format!("the system gives no threads: {error}")))?;
        Ok(Self { feed, thread })
    }

    /// Ends it and waits for the cursors that are being written.
    pub fn stop(self) {
        self.feed.feed(Event::Input(Input::Stop));
        let _ = self.thread.join();
    }
}

/// Tells the log and the metrics how it goes; the same trouble is told once.
struct Logger {
    metrics: Arc<Metrics>,
    log: Log,
    last: Option<String>,
}

impl Tell for Logger {
    fn said(&mut self, said: Said, drain: &Drain) -> ControlFlow<()> {
        self.metrics.drains(drain.status());
        match said {
            Said::Queued(_) => {}
            Said::Accepted { .. } => {
                if self.last.take().is_some() {
                    self.log.note(&Note::new(Level::Info, "drain.recovered"));
                }
            }
            Said::Rejected { records, words } => {
                self.log.note(&Note::new(Level::Warn, "drain.rejected").with("records", records).with("words", words))
            }
            Said::Trouble { words, .. } => {
                if self.last.as_ref() != Some(&words) {
                    self.log.note(&Note::new(Level::Warn, "drain.trouble").with("reason", words.as_str()));
                    self.last = Some(words);
                }
            }
            Said::Complete { .. } => {}
            Said::Failed(failure) => {
                self.log.note(&Note::new(Level::Error, "drain.failed").with("reason", failure.message));
                return ControlFlow::Break(());
            }
            Said::Stopped => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }

    fn note(&mut self, note: Note) {
        self.log.note(&note);
    }
}
