//! What `GET /metrics` shows.

use std::sync::Mutex;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use machines::drain;
use machines::runtime::{Mode, Status};

/// All metrics of a node. What the machine counts itself is read from its status when somebody asks.
pub struct Metrics {
    registry: Registry,
    answers: Family<Answered, Counter>,
    refusals: Family<Refused, Counter>,
    call_seconds: Histogram,
    sync_seconds: Histogram,
    continued_writes: Counter,
    panics: Family<Panicked, Counter>,
    connections: Gauge,
    /// Set together from one status.
    shown: Mutex<Shown>,
    /// The background drain as it last stood.
    drain: Mutex<Option<drain::Status>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    decision: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    reason: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Panicked {
    place: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InMode {
    mode: &'static str,
}

#[derive(Default)]
struct Shown {
    mode: Family<InMode, Gauge>,
    in_flight: Gauge,
    late: Gauge,
    head: Gauge,
    safe: Gauge,
    undelivered: Gauge,
    bytes: Gauge,
    segments: Gauge,
    shed: Gauge,
    drained: Gauge,
    rejected: Gauge,
    trouble: Gauge,
}

const MODES: [Mode; 6] =
    [Mode::WalFailed, Mode::Strict, Mode::PrecheckFailed, Mode::NoPolicy, Mode::WalFull, Mode::Normal];

/// From 16 µs to about 8 s.
fn seconds() -> Histogram {
    Histogram::new((0..20).map(|n| 16e-6 * f64::from(1 << n)))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("autonomy");
        let metrics = Self {
            answers: Family::default(),
            refusals: Family::default(),
            call_seconds: seconds(),
            sync_seconds: seconds(),
            continued_writes: Counter::default(),
            panics: Family::default(),
            connections: Gauge::default(),
            shown: Mutex::new(Shown::default()),
            drain: Mutex::new(None),
            registry: Registry::default(),
        };
        registry.register("calls", "Answers to tool calls by decision and HTTP status", metrics.answers.clone());
        registry.register(
            "refusals",
            "Requests refused before a decision, by reason and HTTP status; none of them is an event",
            metrics.refusals.clone(),
        );
        let name = "call_duration_seconds";
        registry.register(name, "From a whole request to its answer", metrics.call_seconds.clone());
        let name = "disk_sync_duration_seconds";
        registry.register(name, "Duration of file syncs", metrics.sync_seconds.clone());
        let name = "disk_continued_writes";
        registry.register(name, "Short or interrupted writes that were continued", metrics.continued_writes.clone());
        registry.register("panics", "Panics that were caught, by place", metrics.panics.clone());
        registry.register("connections", "Open connections", metrics.connections.clone());
        {
            let shown = metrics.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            registry.register("mode", "1 for the mode that applies", shown.mode.clone());
            registry.register("calls_in_flight", "Calls under way", shown.in_flight.clone());
            registry.register("late_results", "Results that came after their call was given up", shown.late.clone());
            registry.register("wal_head_sequence", "Last appended sequence", shown.head.clone());
            registry.register("wal_safe_sequence", "Last sequence known durable", shown.safe.clone());
            registry.register("wal_undelivered_events", "Frames that no collector took yet", shown.undelivered.clone());
            registry.register("wal_bytes", "Bytes of all frames", shown.bytes.clone());
            registry.register("wal_segments", "Files that hold frames", shown.segments.clone());
            registry.register("wal_shed_events", "Lifecycle events shed for want of room", shown.shed.clone());
            registry.register(
                "drain_sent_events",
                "Events that the collector took since the start",
                shown.drained.clone(),
            );
            registry.register(
                "drain_rejected_records",
                "Records that the collector rejected since the start",
                shown.rejected.clone(),
            );
            registry.register(
                "drain_in_trouble",
                "1 while the last try of the background drain failed",
                shown.trouble.clone(),
            );
        }
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// A call was answered.
    pub fn answered(&self, allow: bool, status: u16, took: Duration) {
        let decision = if allow { "allow" } else { "deny" };
        self.answers.get_or_create(&Answered { decision, status }).inc();
        self.call_seconds.observe(took.as_secs_f64());
    }

    /// A request was refused before a decision.
    pub fn refused(&self, reason: &'static str, status: u16) {
        self.refusals.get_or_create(&Refused { reason, status }).inc();
    }

    /// A panic was caught.
    pub fn panicked(&self, place: &'static str) {
        self.panics.get_or_create(&Panicked { place }).inc();
    }

    /// A connection was opened or closed.
    pub fn connections(&self, open: usize) {
        self.connections.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    /// The background drain stands so.
    pub fn drains(&self, status: drain::Status) {
        *self.drain.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(status);
    }

    /// How the background drain stands; `None` when there is none.
    #[must_use]
    pub fn drain(&self) -> Option<drain::Status> {
        self.drain.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Everything as text in the OpenMetrics format.
    #[must_use]
    pub fn text(&self, status: &Status) -> String {
        let shown = self.shown.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let set = |gauge: &Gauge, n: u64| gauge.set(i64::try_from(n).unwrap_or(i64::MAX));
        for mode in MODES {
            set(&shown.mode.get_or_create(&InMode { mode: mode.as_str() }), u64::from(mode == status.mode));
        }
        set(&shown.in_flight, u64::try_from(status.in_flight).unwrap_or(u64::MAX));
        set(&shown.late, status.counters.late);
        if let Some(wal) = &status.wal {
            set(&shown.head, wal.head);
            set(&shown.safe, wal.safe);
            set(&shown.undelivered, wal.head.saturating_sub(wal.delivered));
            set(&shown.bytes, wal.bytes);
            set(&shown.segments, wal.segments);
            set(&shown.shed, wal.shed);
        }
        if let Some(drain) = self.drain() {
            set(&shown.drained, drain.sent);
            set(&shown.rejected, drain.rejected);
            set(&shown.trouble, u64::from(drain.trouble.is_some()));
        }
        let mut text = String::new();
        // Writing into a string fails for no metric.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl io_drive::disk::Meter for Metrics {
    fn synced(&self, took: Duration) {
        self.sync_seconds.observe(took.as_secs_f64());
    }

    fn continued(&self) {
        self.continued_writes.inc();
    }
}
