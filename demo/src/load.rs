//! Many clients that keep every answer they got outside the process that gave it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::http::Client;
use crate::journal::Journal;

/// One answered call.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The id in the answer.
    pub audit_id: String,
    /// The status code.
    pub status: u16,
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<Vec<Answered>>>,
}

impl Load {
    /// `clients` closed loops against `address`; every eighth call asks for a shell, which policy denies. A client ends
    /// when its connection breaks or `stop` is called.
    ///
    /// # Errors
    /// No threads are left.
    pub fn start(address: SocketAddr, clients: u32) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut handles = Vec::new();
        for client in 0..clients {
            let stop = Arc::clone(&stop);
            let spawn = std::thread::Builder::new().stack_size(128 * 1024).name(format!("client-{client}"));
            handles.push(spawn.spawn(move || run(address, client, &stop)).context("starting the clients")?);
        }
        Ok(Self { stop, clients: handles })
    }

    /// Ends the clients and returns everything that was answered.
    #[must_use]
    pub fn stop(self) -> Vec<Answered> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().unwrap_or_default()).collect()
    }
}

fn run(address: SocketAddr, client: u32, stop: &AtomicBool) -> Vec<Answered> {
    let mut answered = Vec::new();
    let Ok(mut connection) = Client::connect(address, Duration::from_secs(10)) else { return answered };
    let mut call = 0u64;
    while !stop.load(Ordering::Relaxed) {
        call += 1;
        let body = if call.is_multiple_of(8) {
            r#"{"kind":"tool.shell","params":{"argv":["id"]}}"#.to_owned()
        } else {
            format!(r#"{{"kind":"tool.echo","params":{{"message":"client {client} call {call}"}}}}"#)
        };
        let Ok(answer) = connection.post("/v1/tool", &body) else { break };
        let audit_id = answer.text("audit_id");
        if !audit_id.is_empty() {
            answered.push(Answered { audit_id, status: answer.status });
        }
    }
    answered
}

/// Answered calls that the log does not account for, in words: each needs its decision, and each that ran its outcome.
#[must_use]
pub fn missing(answered: &[Answered], journal: &Journal) -> Vec<String> {
    let mut missing = Vec::new();
    for one in answered {
        match journal.calls.get(&one.audit_id) {
            None => missing.push(format!("{} was answered and is not in the log", one.audit_id)),
            Some(call) if call.decision.is_none() => missing.push(format!("{} has no decision", one.audit_id)),
            Some(call) if one.status == 200 && !call.outcome => {
                missing.push(format!("{} was answered 200 and has no outcome", one.audit_id));
            }
            Some(_) => {}
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Call;
    use std::collections::BTreeMap;

    #[test]
    fn what_was_answered_and_is_not_in_the_log_is_named() {
        let answered = |id: &str, status| Answered { audit_id: id.into(), status };
        let call = |outcome| Call { decision: Some(String::new()), outcome };
        let calls = BTreeMap::from([("a".into(), call(true)), ("b".into(), call(false)), ("c".into(), call(false))]);
        let journal = Journal { calls, errors: Vec::new(), last: 4 };
        let all = [answered("a", 200), answered("b", 403), answered("c", 200), answered("d", 403)];
        let missing = missing(&all, &journal);
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(missing[0].starts_with("c was") && missing[1].starts_with("d was"));
    }
}
