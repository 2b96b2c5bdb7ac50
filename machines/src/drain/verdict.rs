//! What an answer means for the drain: one table (SPEC 5, FAULTS N01-N08).

use alloc::format;
use alloc::string::{String, ToString};

use crate::net::{Answer, Body, Fault, Got};
use crate::time::Span;

/// The longest that a receiver may make us wait.
pub const LONGEST_RETRY_AFTER: Span = Span::from_secs(300);

/// What follows from an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The records were taken. The words are the receiver's warning, if it had one.
    Accepted {
        /// The receiver's words.
        words: String,
    },
    /// They were taken, but for some that the receiver does not name and does not want again.
    Partial {
        /// How many it rejected.
        rejected: u64,
        /// The receiver's words.
        words: String,
    },
    /// One of the records is not to its taste: find out which.
    Poison {
        /// The status code.
        status: u16,
        /// The receiver's words.
        words: String,
    },
    /// It may work later.
    Retry {
        /// What happened.
        words: String,
        /// The wait that the receiver asked for, at most five minutes.
        after: Option<Span>,
        /// Whether there was an answer at all.
        answered: bool,
    },
    /// Nobody is there: a command gives up at once, the background tries again.
    Unreachable {
        /// What happened.
        words: String,
    },
    /// Nothing that we send can change it: an operator has to.
    Wrong {
        /// What happened.
        words: String,
        /// What the operator may do.
        hint: &'static str,
    },
}

/// The table.
#[must_use]
pub fn judge(got: Got) -> Verdict {
    match got {
        Got::Answered(answer) => judge_answer(answer),
        Got::Failed(fault) => match fault {
            Fault::Refused | Fault::Unresolvable(_) => Verdict::Unreachable { words: fault.to_string() },
            Fault::TimedOut | Fault::Broken(_) => {
                Verdict::Retry { words: fault.to_string(), after: None, answered: false }
            }
            Fault::Tls(_) => wrong(fault.to_string(), "look at the certificates of both sides"),
            Fault::TooLong => wrong(fault.to_string(), "is this an OTLP endpoint?"),
            Fault::Unsendable(_) => wrong(fault.to_string(), "look at the endpoint and the headers"),
        },
    }
}

fn judge_answer(answer: Answer) -> Verdict {
    let Answer { status, retry_after, body } = answer;
    match (status, body) {
        (200, Body::Full { words }) => Verdict::Accepted { words },
        (200, Body::Partial { rejected, words }) => Verdict::Partial { rejected, words },
        (200, Body::Other { words }) => {
            let words = said("the endpoint answered 200 with something that is no OTLP answer", &words);
            wrong(words, "is this an OTLP endpoint?")
        }
        (400 | 413 | 422, body) => Verdict::Poison { status, words: body.into_words() },
        (408 | 429 | 502 | 503 | 504, body) => Verdict::Retry {
            words: said(&format!("the endpoint answered {status}"), &body.into_words()),
            after: retry_after.map(|span| span.min(LONGEST_RETRY_AFTER)),
            answered: true,
        },
        (_, body) => wrong(said(&format!("the endpoint answered {status}"), &body.into_words()), hint(status)),
    }
}

const fn hint(status: u16) -> &'static str {
    match status {
        401 | 403 => "look at the credentials (headers or client certificate)",
        404 | 405 => "look at the URL; records go to its path /v1/logs",
        300..=399 => "redirects are not followed; give the address that it leads to",
        _ => "is this an OTLP endpoint?",
    }
}

const fn wrong(words: String, hint: &'static str) -> Verdict {
    Verdict::Wrong { words, hint }
}

fn said(what: &str, words: &str) -> String {
    if words.is_empty() { what.into() } else { format!("{what}: {words}") }
}

impl Body {
    fn into_words(self) -> String {
        match self {
            Self::Full { words } | Self::Partial { words, .. } | Self::Other { words } => words,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    #[test]
    fn every_status_has_one_verdict_and_few_are_about_records() {
        let mut table = String::new();
        let mut before = String::new();
        for status in 100..600 {
            let got = Got::Answered(Answer {
                status,
                retry_after: Some(Span::from_secs(9_000)),
                body: Body::Other { words: "no".into() },
            });
            let verdict = judge(got);
            let is_poison = matches!(verdict, Verdict::Poison { .. });
            assert_eq!(is_poison, matches!(status, 400 | 413 | 422));
            assert!(!matches!(verdict, Verdict::Accepted { .. } | Verdict::Partial { .. }), "{status}");
            let line = match verdict {
                Verdict::Poison { .. } => "poison".into(),
                Verdict::Retry { after, .. } => format!("retry after {} ms", after.map_or(0, Span::as_millis)),
                Verdict::Wrong { hint, .. } => format!("wrong: {hint}"),
                Verdict::Accepted { .. } | Verdict::Partial { .. } | Verdict::Unreachable { .. } => "?".into(),
            };
            if line != before {
                writeln!(table, "from {status}: {line}").unwrap();
            }
            before = line;
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn n02_a_hanging_collector_is_tried_again_and_a_refused_address_is_not_there() {
        assert!(matches!(judge(Got::Failed(Fault::TimedOut)), Verdict::Retry { answered: false, .. }));
        assert!(matches!(judge(Got::Failed(Fault::Broken("reset".into()))), Verdict::Retry { answered: false, .. }));
        let refused = judge(Got::Failed(Fault::Refused));
        assert_eq!(refused, Verdict::Unreachable { words: "connection refused".into() });
        for fault in [Fault::Tls("x".into()), Fault::TooLong, Fault::Unsendable("x".into())] {
            assert!(matches!(judge(Got::Failed(fault)), Verdict::Wrong { .. }));
        }
    }
}
