//! Carries out what the verification machine asks, one thing after another.

use std::collections::VecDeque;
use std::sync::Arc;

use io_artifacts::Fault;
use io_artifacts::blob::Discard;
use io_artifacts::keys::PublicKeys;
use io_artifacts::source::Transport;
use io_drive::clock::{Clock, entropy};
use machines::machine::{Effect, Event, Machine as _, Outbox};
use machines::policy::bundle::Bundle;
use machines::verify::{Answer, Ask, Failed, Options, Outcome, Output, Passed, SourceFault, Step, Verify};
use machines::work::{Compiled, Got, Op};

pub async fn run(
    source: &Transport,
    options: Options,
    keys: &PublicKeys,
    open: impl Fn(Vec<u8>) -> Result<(Arc<Bundle>, Compiled), String>,
    mut told: impl FnMut(Step, &Outcome) + Send,
) -> Result<Passed, Failed> {
    let mut machine = Verify::new(options);
    let start = entropy().map_err(|error| Failed::Source(error.to_string()))?;
    let mut events = VecDeque::from([Event::Start(start)]);
    while let Some(event) = events.pop_front() {
        let mut effects = Vec::new();
        machine.handle(Clock.now(), event, &mut Outbox::over(&mut effects));
        machine.check();
        for effect in effects {
            match effect {
                Effect::Work(tag, Op::Artifact(ask)) => {
                    events.push_back(Event::Work(tag, Got::Artifact(answer(source, ask).await)));
                }
                Effect::Work(tag, Op::CheckSignature { message, signature }) => {
                    events.push_back(Event::Work(tag, Got::Checked(keys.check(&message, &signature))));
                }
                Effect::Work(tag, Op::OpenBundle(bytes)) => {
                    events.push_back(Event::Work(tag, Got::Opened(open(bytes))));
                }
                Effect::Output(Output::Step(step, outcome)) => told(step, &outcome),
                Effect::Output(Output::End(ended)) => return ended,
                _ => panic!("no such effect"),
            }
        }
    }
    Err(Failed::Source("stuck".into()))
}

async fn answer(source: &Transport, ask: Ask) -> Result<Answer, SourceFault> {
    let words = |fault: Fault| match fault {
        Fault::NotFound { .. } => SourceFault::NotFound,
        Fault::TooLong { max, .. } => SourceFault::TooLong { max },
        other => SourceFault::Unreachable(other.to_string()),
    };
    match ask {
        Ask::Manifest { at, max } => {
            let found = source.manifest(&at, max).await.map_err(words)?;
            Ok(Answer::Manifest { media_type: found.media_type, digest: found.digest, bytes: found.bytes })
        }
        Ask::Referrers { subject, max } => {
            Ok(Answer::Referrers(source.referrers(&subject, None, max).await.map_err(words)?))
        }
        Ask::Bytes(descriptor) => Ok(Answer::Bytes(source.bytes(&descriptor, descriptor.size).await.map_err(words)?)),
        Ask::Stream(descriptor) => {
            let matched = source.stream(&descriptor, Discard).await.map_err(words)?;
            Ok(Answer::Hashed { digest: matched.digest(), size: matched.size() })
        }
    }
}
