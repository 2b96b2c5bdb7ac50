//! The collector: takes the log's events, and is the drain's adversary. It refuses, hangs, stores and loses the answer, does
//! not like a record, stores twice; and it remembers for each record how often it was stored and what the drain was told.

use std::sync::Arc;

use machines::drain::batch::Batch;
use machines::net::{Answer, Body, Export, Fault, Got, Op, Tag};
use machines::time::Span;

use crate::ledger::NONE;
use crate::marks::Mark;
use crate::plan::Manner;
use crate::rng::{Stream, draw, mix};
use crate::sabotage::Sabotage;
use crate::world::{Ev, US, World};

/// What became of a record that was handed to the disk as a frame.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fate {
    /// How often the collector stored it.
    pub stored: u32,
    /// The answer to a request with it said that it was taken, and the drain has read that.
    pub taken: bool,
    /// The drain was told that it is rejected: alone, or as one of a batch of which some were.
    pub refused: bool,
    /// The first sequence of the file in `rejected/` that holds it; 0 = none.
    pub aside: u64,
}

impl Fate {
    /// Whether a cursor may pass it.
    pub(crate) const fn is_settled(self) -> bool {
        self.taken || self.refused && self.aside != 0
    }
}

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Request {
    pub proc: u8,
    pub epoch: u32,
    tag: Tag,
    /// The records, as numbers in the ledger.
    pub records: Vec<u32>,
    /// Nothing of its batch comes behind it.
    last: bool,
    /// When its sender gives up.
    until: u64,
    /// The collector stored it.
    stored: bool,
    answer: Option<Got>,
    /// Its sender was told something else before (a broken driver did so).
    told: bool,
}

impl Request {
    /// Whether the collector stored it and its sender does not know.
    pub(crate) const fn is_unanswered(&self) -> bool {
        self.stored && !self.told
    }
}

/// The collector.
#[derive(Debug, Default)]
pub(crate) struct Collector {
    pub manner: Manner,
    /// Until when it behaves so, in nanoseconds of the world.
    pub until: u64,
    pub retry_us: u64,
    pub requests: Vec<Request>,
    /// By number in the ledger.
    fates: Vec<Fate>,
    /// By sequence: the number in the ledger of the frame that was exported under it.
    pub seen: Vec<u32>,
    /// Something failed since a batch was last taken.
    pub outage: bool,
    /// Nobody answered since a batch was last taken.
    silent: bool,
}

impl Collector {
    pub(crate) fn reset(&mut self) {
        self.manner = Manner::Plain;
        self.until = 0;
        self.retry_us = 0;
        self.requests.clear();
        self.fates.clear();
        self.seen.clear();
        self.outage = false;
        self.silent = false;
    }

    pub(crate) fn fate(&self, index: u32) -> Fate {
        self.fates.get(index as usize).copied().unwrap_or_default()
    }

    pub(crate) fn fate_mut(&mut self, index: u32) -> Option<&mut Fate> {
        let at = index as usize;
        if self.fates.len() <= at {
            self.fates.resize(at + 1, Fate::default());
        }
        self.fates.get_mut(at)
    }

    /// A file in `rejected/` is replaced: what it held before is nowhere.
    pub(crate) fn forget_aside(&mut self, first: u64) {
        for fate in self.fates.iter_mut().filter(|fate| fate.aside == first) {
            fate.aside = 0;
        }
    }
}

impl World {
    /// The collector behaves like this for a while.
    pub(crate) fn collector_becomes(&mut self, manner: Manner, for_us: u64, retry_us: u64) {
        self.collector.manner = manner;
        self.collector.until = self.now + for_us * US;
        self.collector.retry_us = retry_us;
    }

    /// A drain's process sends records.
    pub(crate) fn export(&mut self, proc: usize, tag: Tag, op: Op) {
        let Op::Export(export) = op;
        let records = self.check_export(proc, &export);
        if self.failure.is_some() {
            return;
        }
        let Export { batch, from, to, timeout } = export;
        self.trace.record(18, (proc as u64) << 32 | (to - from) as u64, self.now);
        self.say(|| format!("p{proc} sends {} of {}", words(&batch, from, to), batch.class.name()));
        let number = u32::try_from(self.collector.requests.len()).unwrap_or(NONE);
        let epoch = self.epoch_of(proc);
        let until = self.now + timeout.as_nanos();
        self.collector.requests.push(Request {
            proc: u8::try_from(proc).unwrap_or(0),
            epoch,
            tag,
            records,
            last: to == batch.len(),
            until,
            stored: false,
            answer: None,
            told: false,
        });
        let noise = draw(self.plan.seed, Stream::Net, u64::from(number), 0);
        self.push(self.now + 20_000 + noise % 400_000, Ev::Arrive(number));
        if self.sabotaged_by(Sabotage::CursorBeforeAnswer) {
            self.push(self.now + 1, Ev::Answer(number));
        }
    }

    /// Whether the collector does not like a record, by its identity.
    fn is_poisonous(&self, index: u32) -> bool {
        let poison = u64::from(self.plan.config.poison);
        let h = self.ledger.entry(index).map_or(0, |entry| entry.h);
        poison > 0 && mix(h).is_multiple_of(poison)
    }

    /// A request reaches the collector.
    pub(crate) fn arrive(&mut self, number: u32) {
        let Some(request) = self.collector.requests.get(number as usize) else { return };
        let (proc, epoch, until) = (usize::from(request.proc), request.epoch, request.until);
        let noise = draw(self.plan.seed, Stream::Net, u64::from(number), 1);
        if self.epoch_of(proc) != epoch && noise.is_multiple_of(2) {
            // Its sender is gone, and so was the connection.
            return;
        }
        let manner = if self.now < self.collector.until { self.collector.manner } else { Manner::Plain };
        let span = until.saturating_sub(self.now).max(1);
        let soon = 10_000 + noise % 300_000;
        let (got, after) = match manner {
            Manner::Plain => (self.judge_and_store(number), soon),
            Manner::Down => (Got::Failed(Fault::Refused), soon),
            Manner::Hang => (Got::Failed(Fault::TimedOut), span),
            Manner::Slow => (self.judge_and_store(number), span / 2 + noise % span),
            Manner::Lost => {
                self.judge_and_store(number);
                (Got::Failed(Fault::Broken("reset".into())), soon)
            }
            Manner::Late => {
                self.judge_and_store(number);
                (Got::Failed(Fault::TimedOut), span)
            }
            Manner::Cut => (Got::Failed(Fault::Broken("cut".into())), soon),
            Manner::Busy => (self.answered(429), soon),
            Manner::Unavailable => (self.answered(503), soon),
            Manner::Gateway => {
                if noise & 4 == 0 {
                    self.judge_and_store(number);
                }
                (self.answered(if noise & 8 == 0 { 502 } else { 504 }), soon)
            }
            Manner::Partial => (self.store_some(number), soon),
            Manner::Error => (self.answered(500), soon),
            Manner::Missing => (self.answered(404), soon),
            Manner::Redirect => (self.answered(302), soon),
            Manner::Nonsense => (self.answered(200), soon),
            Manner::Twice => {
                let got = self.judge_and_store(number);
                self.push(self.now + 100_000 + noise % 200_000_000, Ev::Copy(number));
                (got, soon)
            }
        };
        self.trace.record(19, u64::from(number), manner as u64);
        let (got, at) =
            if self.now + after >= until { (Got::Failed(Fault::TimedOut), until) } else { (got, self.now + after) };
        if let Some(request) = self.collector.requests.get_mut(number as usize) {
            request.answer = Some(got);
        }
        self.push(at.max(self.now), Ev::Answer(number));
    }

    fn answered(&self, status: u16) -> Got {
        let retry = matches!(status, 429 | 503) && self.collector.retry_us > 0;
        let retry_after = retry.then(|| Span::from_micros(self.collector.retry_us));
        Got::Answered(Answer { status, retry_after, body: Body::Other { words: "simulated".into() } })
    }

    fn judge_and_store(&mut self, number: u32) -> Got {
        let Some(request) = self.collector.requests.get(number as usize) else { return Got::Failed(Fault::Refused) };
        let bad = request.records.iter().copied().find(|index| self.is_poisonous(*index));
        if let Some(bad) = bad {
            let status = [400, 413, 422][self.ledger.entry(bad).map_or(0, |entry| entry.h as usize % 3)];
            return self.answered(status);
        }
        self.store(number, |_| true);
        Got::Answered(Answer { status: 200, retry_after: None, body: Body::Full { words: String::new() } })
    }

    fn store_some(&mut self, number: u32) -> Got {
        let Some(request) = self.collector.requests.get(number as usize) else { return Got::Failed(Fault::Refused) };
        let disliked = |h: u64| mix(h ^ 5).is_multiple_of(3);
        let h_of = |index: &u32| self.ledger.entry(*index).map_or(0, |entry| entry.h);
        let rejected = request.records.iter().filter(|index| disliked(h_of(index))).count() as u64;
        self.store(number, |h| !disliked(h));
        let body = if rejected == 0 {
            Body::Full { words: "a warning".into() }
        } else {
            Body::Partial { rejected, words: "too odd".into() }
        };
        Got::Answered(Answer { status: 200, retry_after: None, body })
    }

    fn store(&mut self, number: u32, wanted: impl Fn(u64) -> bool) {
        let Some(request) = self.collector.requests.get_mut(number as usize) else { return };
        request.stored = true;
        let records = std::mem::take(&mut request.records);
        for index in &records {
            let h = self.ledger.entry(*index).map_or(0, |entry| entry.h);
            if wanted(h)
                && let Some(fate) = self.collector.fate_mut(*index)
            {
                fate.stored += 1;
            }
        }
        if let Some(request) = self.collector.requests.get_mut(number as usize) {
            request.records = records;
        }
    }

    /// A late copy of a request arrives: the network had kept one.
    pub(crate) fn copy(&mut self, number: u32) {
        let stored = self.collector.requests.get(number as usize).is_some_and(|request| request.stored);
        if stored {
            self.store(number, |_| true);
        }
    }

    /// The answer to a request reaches the drain, if that still lives.
    pub(crate) fn answer(&mut self, number: u32) {
        let Some(request) = self.collector.requests.get_mut(number as usize) else { return };
        let (proc, epoch, tag) = (usize::from(request.proc), request.epoch, request.tag);
        let told = std::mem::replace(&mut request.told, true);
        let answer = request.answer.take();
        let (count, stored) = (request.records.len(), request.stored);
        if self.drainer(proc).is_none_or(|drainer| drainer.epoch != epoch || drainer.is_over()) {
            // Nobody reads it any more.
            return;
        }
        let got = match answer {
            Some(got) => {
                self.note_answer(proc, number, &got);
                got
            }
            // The broken driver's own answer: the collector has not seen the request yet.
            None => Got::Answered(Answer { status: 200, retry_after: None, body: Body::Full { words: String::new() } }),
        };
        if told {
            return;
        }
        self.trace.record(20, u64::from(number), self.now);
        self.say(|| format!("p{proc} is answered: {got:?} ({count} records, stored: {stored})"));
        let got = self.spoil_answer(got);
        self.feed_drain(proc, machines::machine::Event::Net(tag, got));
    }

    /// What an answer means for the records that it is about.
    fn note_answer(&mut self, proc: usize, number: u32, got: &Got) {
        let Some(request) = self.collector.requests.get(number as usize) else { return };
        let (records, last) = (request.records.clone(), request.last);
        let (taken, refused) = match got {
            Got::Answered(Answer { status: 200, body: Body::Full { .. }, .. }) => (true, false),
            Got::Answered(Answer { status: 200, body: Body::Partial { .. }, .. }) => {
                self.hit(Mark::PartialKept);
                (false, true)
            }
            Got::Answered(Answer { status: 400 | 413 | 422, .. }) => (false, records.len() == 1),
            Got::Answered(Answer { status: 429 | 503, retry_after: Some(span), .. }) => {
                self.hold_back(proc, *span);
                (false, false)
            }
            Got::Answered(_) | Got::Failed(_) => (false, false),
        };
        if taken {
            if std::mem::replace(&mut self.collector.silent, false) {
                self.hit(Mark::CollectorBack);
            }
            self.collector.outage = false;
        } else if !refused {
            self.collector.outage = true;
            self.collector.silent |= matches!(got, Got::Failed(Fault::Refused));
        }
        for index in &records {
            if let Some(fate) = self.collector.fate_mut(*index) {
                fate.taken |= taken;
                fate.refused |= refused;
            }
        }
        let divided = matches!(got, Got::Answered(Answer { status: 400 | 413 | 422, .. })) && !refused;
        if !divided {
            self.note_settled(proc, taken || refused, last, &records);
        }
    }
}

fn words(batch: &Arc<Batch>, from: usize, to: usize) -> String {
    let seqs: Vec<String> =
        batch.items().get(from..to).unwrap_or(&[]).iter().map(|item| item.seq.get().to_string()).collect();
    seqs.join(" ")
}
