//! Where connections come from.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use crate::unix::Credentials;

/// Gives connections.
pub trait Listener: Send + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection. Dropping the future loses none.
    fn accept(&mut self) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Whose process is at the other end, where the kernel says it.
    fn peer(_stream: &Self::Stream) -> Option<Credentials> {
        None
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<TcpStream> {
        let (stream, _) = Self::accept(self).await?;
        // An answer is one small write: it must not wait for the acknowledgement of the one before.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

/// Why nothing can be listened on. The address comes first, then what to do.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else has the address.
    #[error(
        "{0}: cannot be listened on: another process does; stop it, or give another port (port 0 takes a free one)"
    )]
    Taken(String),
    /// The port is for root.
    #[error("{0}: cannot be listened on: not permitted; give a port from 1024 on, or the right to lower ones")]
    NotPermitted(String),
    /// The address belongs to another machine.
    #[error("{0}: cannot be listened on: no address of this machine; give 127.0.0.1, or one of its own")]
    NotHere(String),
    /// Others could connect, and must not.
    #[error("{0}: is not a loopback address, and whoever can reach it could ask; listen on 127.0.0.1 or [::1]")]
    NotLoopback(SocketAddr),
    /// Anything else; among it a name that leads nowhere.
    #[error("{0}: cannot be listened on: {1}")]
    Failed(String, #[source] io::Error),
}

impl BindError {
    /// The error of a TCP socket that was to have this address.
    #[must_use]
    pub fn new(address: &(impl ToString + ?Sized), error: io::Error) -> Self {
        let (address, kind) = (address.to_string(), error.kind());
        if kind == io::ErrorKind::AddrInUse {
            Self::Taken(address)
        } else if kind == io::ErrorKind::PermissionDenied {
            Self::NotPermitted(address)
        } else if kind == io::ErrorKind::AddrNotAvailable {
            Self::NotHere(address)
        } else {
            Self::Failed(address, error)
        }
    }
}

/// Listens on `host:port`; the address that comes back has the port that was chosen where 0 was asked for.
///
/// # Errors
/// When the address cannot be had.
pub async fn bind(listen: &str) -> Result<(TcpListener, SocketAddr), BindError> {
    let bound = async {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|error| BindError::new(listen, error))
}

/// Listens on a loopback address: for listeners that ask nobody for a credential.
///
/// # Errors
/// When the address is not a loopback one, or cannot be had.
pub async fn bind_loopback(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    if !address.ip().is_loopback() {
        return Err(BindError::NotLoopback(address));
    }
    bind(&address.to_string()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_that_cannot_be_had_is_named_with_what_to_do() {
        let (_held, address) = bind("127.0.0.1:0").await.unwrap();
        let taken = bind(&address.to_string()).await.unwrap_err().to_string();
        assert!(taken.starts_with(&format!("{address}: ")) && taken.contains("give another port"), "{taken}");
        let elsewhere = bind("192.0.2.1:0").await.unwrap_err().to_string();
        assert!(
            elsewhere.starts_with("192.0.2.1:0: ") && elsewhere.contains("no address of this machine"),
            "{elsewhere}"
        );
        assert!(matches!(bind("nowhere").await, Err(BindError::Failed(..))));
    }

    #[tokio::test]
    async fn t18_what_asks_for_no_credential_listens_on_loopback_alone() {
        for address in ["0.0.0.0:0", "[::]:0", "10.1.2.3:0"] {
            let refused = bind_loopback(address.parse().unwrap()).await.unwrap_err();
            assert!(matches!(refused, BindError::NotLoopback(_)));
            assert!(refused.to_string().starts_with(&format!("{address}: ")), "{refused}");
        }
        let (_, address) = bind_loopback("127.0.0.1:0".parse().unwrap()).await.unwrap();
        assert_ne!(address.port(), 0);
    }
}
