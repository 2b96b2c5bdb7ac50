//! A unix socket for its owner and root: mode 0600, and the kernel's word on who is at the other end (`SO_PEERCRED`).

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

use crate::connection::turn_away;
use crate::listen::{BindError, Listener};

/// Whose process is at the other end of a unix socket: who made the connection, or who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The effective user.
    pub uid: u32,
    /// The effective group.
    pub gid: u32,
    /// The process, where the kernel knows it here.
    pub pid: Option<i32>,
}

impl Credentials {
    /// Those of the other end.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let cred = stream.peer_cred()?;
        Ok(Self { uid: cred.uid(), gid: cred.gid(), pid: cred.pid() })
    }

    /// Whether it is our own user, or root.
    #[must_use]
    pub fn is_own_or_root(&self) -> bool {
        own_and_root().contains(&self.uid)
    }
}

fn own_and_root() -> [u32; 2] {
    [rustix::process::geteuid().as_raw(), 0]
}

/// What anybody else is told before the connection is closed.
const NOT_FOR_YOU: &[u8] =
    b"HTTP/1.1 403 Forbidden\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close\r\n\
    content-length: 41\r\n\r\nthis socket is for its owner and for root";

/// How long a process that listens on the path may take to show itself.
const PROBE: Duration = Duration::from_secs(1);

/// A listening unix socket. Its file goes when it does.
#[derive(Debug)]
pub struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and number of the file, so that a successor's is left alone.
    file: (u64, u64),
    admitted: [u32; 2],
}

impl UnixSocket {
    /// Listens on a path; what a process left there that is gone is replaced.
    ///
    /// # Errors
    /// When another process listens there, something else lies there, or the file cannot be made. Folders are not made.
    pub async fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |error| BindError::Failed(path.display().to_string(), error);
        free(path).await.map_err(failed)?;
        // Under another name until it is closed to others: it is never there with another mode.
        let mut aside = path.as_os_str().to_owned();
        aside.push(".new");
        let aside = PathBuf::from(aside);
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&aside).map_err(|error| failed(told(error)))?;
        let done = fs::set_permissions(&aside, fs::Permissions::from_mode(0o600))
            .and_then(|()| fs::symlink_metadata(&aside))
            .and_then(|file| fs::rename(&aside, path).map(|()| (file.dev(), file.ino())));
        match done {
            Ok(file) => Ok(Self { listener, path: path.into(), file, admitted: own_and_root() }),
            Err(error) => {
                let _ = fs::remove_file(&aside);
                Err(failed(error))
            }
        }
    }
}

/// Whether the path is free, or holds a socket that nobody listens on.
async fn free(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file lies there that is no socket; move it away",
            ));
        }
        Ok(_) => {}
    }
    match timeout(PROBE, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Ok(Err(error)) => Err(error),
        Ok(Ok(_)) | Err(_) => {
            Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process listens there; stop it first"))
        }
    }
}

/// An error of bind(2) in words: paths of sockets are short.
fn told(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::InvalidInput {
        return io::Error::new(error.kind(), "the path of a socket has at most 103 bytes; give a shorter one");
    }
    error
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.file) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Listener for UnixSocket {
    type Stream = UnixStream;

    /// The next connection of somebody who is let in. The mode of the file keeps others out already; this does where the
    /// file system does not keep modes, or somebody changed it.
    async fn accept(&mut self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            match Credentials::of(&stream) {
                Ok(peer) if self.admitted.contains(&peer.uid) => return Ok(stream),
                Ok(_) | Err(_) => turn_away(stream, NOT_FOR_YOU),
            }
        }
    }

    fn peer(stream: &UnixStream) -> Option<Credentials> {
        Credentials::of(stream).ok()
    }
}

/// Connects to a socket of our own user or of root: whoever else listens there gets not one byte from us.
///
/// # Errors
/// When nobody listens, or somebody else does.
pub async fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path).await?;
    let peer = Credentials::of(&stream)?;
    if peer.is_own_or_root() {
        return Ok(stream);
    }
    let words = format!("{}: user {} listens there, who is neither this user nor root", path.display(), peer.uid);
    Err(io::Error::new(io::ErrorKind::PermissionDenied, words))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    async fn refused(path: &Path) -> String {
        UnixSocket::bind(path).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_socket_is_for_its_owner_and_says_who_came() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let mut socket = UnixSocket::bind(&path).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let (caller, served) = tokio::join!(connect(&path), Listener::accept(&mut socket));
        let peer = UnixSocket::peer(&served.unwrap()).unwrap();
        assert!(peer.is_own_or_root());
        assert_eq!(peer.pid, i32::try_from(std::process::id()).ok());
        drop((caller, socket));
        assert!(!path.exists() && !folder.path().join("control.sock.new").exists());
    }

    #[tokio::test]
    async fn another_user_is_told_so_and_the_next_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let mut socket = UnixSocket::bind(&path).await.unwrap();
        let admitted = std::mem::replace(&mut socket.admitted, [u32::MAX, u32::MAX]);
        let mut stranger = UnixStream::connect(&path).await.unwrap();
        // It is turned away while the socket waits for somebody else.
        assert!(timeout(Duration::from_millis(50), Listener::accept(&mut socket)).await.is_err());
        let mut said = String::new();
        stranger.read_to_string(&mut said).await.unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 403 ") && head.ends_with(&format!("content-length: {}", body.len())),
            "{said}"
        );
        socket.admitted = admitted;
        let (_caller, served) = tokio::join!(connect(&path), Listener::accept(&mut socket));
        served.unwrap();
    }

    #[tokio::test]
    async fn what_a_dead_process_left_is_replaced_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let mut socket = UnixSocket::bind(&path).await.unwrap();
        assert!(refused(&path).await.contains("another process listens there"), "it lives");
        let (caller, served) = tokio::join!(connect(&path), Listener::accept(&mut socket));
        caller.unwrap();
        served.unwrap();

        // A successor's file outlives us.
        fs::remove_file(&path).unwrap();
        let successor = UnixSocket::bind(&path).await.unwrap();
        drop(socket);
        assert!(path.exists());
        drop(successor);

        fs::write(&path, "precious").unwrap();
        let said = refused(&path).await;
        assert!(said.starts_with(&path.display().to_string()) && said.contains("no socket"), "{said}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let said = refused(&folder.path().join("x".repeat(120))).await;
        assert!(said.contains("at most 103 bytes"), "{said}");
        assert!(refused(&folder.path().join("none/control.sock")).await.contains("No such file"));
        assert!(connect(&path).await.is_err());
    }
}
