//! What an answer leads to: the next batch, another try, or the end.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;

use crate::machine::Outbox;
use crate::net;
use crate::time::{Now, Span};

use super::rejected::Reason;
use super::session::Session;
use super::verdict::{Verdict, judge};
use super::{Drain, Failure, LONGEST_WAIT, MOST_SPOILED, Output, Phase, Until, Why};

impl Drain {
    pub(super) fn answered(
        &mut self,
        now: Now,
        mut session: Box<Session>,
        got: net::Got,
        out: &mut Outbox<'_, Output>,
    ) {
        let (batch, from, to) = session.landed();
        let events = batch.events(from, to);
        let records = u64::try_from(to.saturating_sub(from)).unwrap_or(u64::MAX);
        match judge(got) {
            Verdict::Accepted { words } => {
                self.tally.spoiled = 0;
                self.accepted(events, records, words, out);
                session.dealt_with(None);
                self.go_on(now, session, out);
            }
            Verdict::Partial { rejected, words } => {
                let rejected = rejected.min(records);
                if rejected < records {
                    self.tally.spoiled = 0;
                }
                self.accepted(events.saturating_sub(rejected), records, String::new(), out);
                session.dealt_with(Some(Reason { status: 200, rejected, words: &words, at: now.wall }));
                self.put_aside(now, session, rejected, words, out);
            }
            Verdict::Poison { status, words } => {
                self.answers_again();
                if session.narrow() {
                    return self.go_on(now, session, out);
                }
                session.dealt_with(Some(Reason { status, rejected: 1, words: &words, at: now.wall }));
                self.put_aside(now, session, 1, words, out);
            }
            Verdict::Retry { words, after, answered } => {
                let why = if answered { Why::Refused } else { Why::Unreachable };
                let wait = self.wait().max(after.unwrap_or_default());
                self.retry(now, session, (why, words), wait, out);
            }
            Verdict::Unreachable { words } => match self.config.until {
                Until::Empty => {
                    let message = String::from("could not reach endpoint");
                    self.fail(words, Failure { why: Why::Unreachable, message }, out);
                }
                Until::Stopped => {
                    let wait = self.wait();
                    self.retry(now, session, (Why::Unreachable, words), wait, out);
                }
            },
            Verdict::Wrong { words, hint } => self.wrong(now, session, words, hint, out),
        }
    }

    fn accepted(&mut self, events: u64, records: u64, words: String, out: &mut Outbox<'_, Output>) {
        self.answers_again();
        self.tally.batches = self.tally.batches.saturating_add(1);
        self.tally.sent = self.tally.sent.saturating_add(events);
        out.output(Output::Accepted { batch: self.tally.batches, events, records, words });
    }

    /// The receiver answers; the backoff ends when the cursors have moved.
    fn answers_again(&mut self) {
        self.tally.since = None;
    }

    /// Records were put aside. A receiver that takes nothing of a hundred in a row may be the wrong one: a command ends, and
    /// a drain that goes on goes on slowly.
    fn put_aside(
        &mut self,
        now: Now,
        mut session: Box<Session>,
        records: u64,
        words: String,
        out: &mut Outbox<'_, Output>,
    ) {
        self.tally.rejected = self.tally.rejected.saturating_add(records);
        self.tally.spoiled = self.tally.spoiled.saturating_add(1);
        out.output(Output::Rejected { records, words });
        if self.tally.spoiled >= MOST_SPOILED {
            match self.config.until {
                Until::Empty => session.end_here(),
                Until::Stopped => session.pause(now.mono.after(LONGEST_WAIT)),
            }
        }
        self.go_on(now, session, out);
    }

    /// Nothing that we send can change it.
    fn wrong(
        &mut self,
        now: Now,
        session: Box<Session>,
        words: String,
        hint: &'static str,
        out: &mut Outbox<'_, Output>,
    ) {
        match self.config.until {
            Until::Empty => {
                let message = format!("{words}; {hint}");
                self.fail(words, Failure { why: Why::Refused, message }, out);
            }
            Until::Stopped => {
                let words = format!("{words}; {hint}");
                self.retry(now, session, (Why::Refused, words), LONGEST_WAIT, out);
            }
        }
    }

    /// Tries again after a wait, without the lock if this drain goes on; or gives up when a command's time is over.
    fn retry(
        &mut self,
        now: Now,
        mut session: Box<Session>,
        trouble: (Why, String),
        wait: Span,
        out: &mut Outbox<'_, Output>,
    ) {
        let (why, words) = trouble;
        let at = now.mono.after(wait);
        match self.config.until {
            Until::Empty => {
                let since = self.tally.since.unwrap_or(now.mono);
                if at.since(since) >= self.config.timeout {
                    let tried = at_least_one_second(now.mono.since(since));
                    let message = match why {
                        Why::Unreachable => format!("no answer from the endpoint for {tried} s"),
                        Why::Refused | Why::Held | Why::Log => format!("{words} (tried for {tried} s)"),
                    };
                    return self.fail(words, Failure { why, message }, out);
                }
                out.output(Output::Trouble { words, retry_in: Some(wait) });
                session.try_again(at);
                self.phase = Phase::Draining(session);
            }
            Until::Stopped => {
                self.tally.trouble = Some(words.clone());
                out.output(Output::Trouble { words, retry_in: Some(wait) });
                self.unlock(out);
                session.try_again(at);
                self.rest(at, "try again", Some(session));
            }
        }
    }

    pub(super) fn fail(&mut self, words: String, failure: Failure, out: &mut Outbox<'_, Output>) {
        self.tally.trouble = Some(words.clone());
        out.output(Output::Trouble { words, retry_in: None });
        self.end(Output::Failed(failure), out);
    }
}

fn at_least_one_second(span: Span) -> u64 {
    (span.as_millis() / 1000).max(1)
}
