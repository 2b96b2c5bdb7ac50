//! Making a connection, generic over what makes it, so that a simulated network can stand in.

use std::io;
use std::time::Duration;

use machines::net::Fault;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::fault::os_words;

/// Makes connections.
pub trait Dial: Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Connects to a host (a name, or an address without brackets) within the time.
    fn dial(&self, host: &str, port: u16, within: Duration)
    -> impl Future<Output = Result<Self::Stream, Fault>> + Send;
}

/// TCP by the operating system. It reads no proxy variable: what is configured is what is spoken to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Dial for Tcp {
    type Stream = TcpStream;

    async fn dial(&self, host: &str, port: u16, within: Duration) -> Result<TcpStream, Fault> {
        let end = Instant::now() + within;
        let looked_up = timeout(within, tokio::net::lookup_host((host, port))).await;
        let addresses: Vec<_> = match looked_up {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(_)) => return Err(Fault::Unresolvable(host.to_owned())),
            Err(_) => return Err(Fault::TimedOut),
        };
        let mut faults = Vec::new();
        for (at, address) in addresses.iter().enumerate() {
            // An address that does not answer must leave time for the ones behind it.
            let left = end.saturating_duration_since(Instant::now());
            let share = left / u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
            match timeout(share, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // A request is one write, and must not wait for the acknowledgement of the one before.
                    let _ = stream.set_nodelay(true);
                    return Ok(stream);
                }
                Ok(Err(error)) => faults.push(fault_of(&error)),
                Err(_) => faults.push(Fault::TimedOut),
            }
        }
        Err(worst(faults, host))
    }
}

fn fault_of(error: &io::Error) -> Fault {
    if error.kind() == io::ErrorKind::ConnectionRefused {
        Fault::Refused
    } else if error.kind() == io::ErrorKind::TimedOut {
        Fault::TimedOut
    } else {
        Fault::Broken(os_words(error))
    }
}

/// What several addresses together come to: silence may end, a refusal is a clear answer, the rest is for the operator.
fn worst(faults: Vec<Fault>, host: &str) -> Fault {
    let rank = |fault: &Fault| match fault {
        Fault::TimedOut => 2,
        Fault::Refused => 1,
        Fault::Unresolvable(_) | Fault::Broken(_) | Fault::Tls(_) | Fault::TooLong | Fault::Unsendable(_) => 0,
    };
    faults.into_iter().max_by_key(rank).unwrap_or_else(|| Fault::Unresolvable(host.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_more_than_an_address_that_this_host_cannot_use() {
        let broken = || Fault::Broken("cannot assign requested address".into());
        assert_eq!(worst(vec![Fault::Refused, broken()], "h"), Fault::Refused);
        assert_eq!(worst(vec![broken(), Fault::Refused], "h"), Fault::Refused);
        assert_eq!(worst(vec![Fault::TimedOut, Fault::Refused], "h"), Fault::TimedOut);
        assert_eq!(worst(vec![], "h"), Fault::Unresolvable("h".into()));
    }
}
