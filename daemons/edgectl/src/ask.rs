//! One request over the control socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use daemon_common::failure::Failure;
use daemon_common::output::harmless;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use machines::json::{Limits, Value, parse};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of one.
const MOST: usize = 1 << 20;

/// What edged says of this path.
///
/// # Errors
/// 3 when it does not run or cannot be reached, 1 when it answers otherwise than with JSON and 200.
pub fn ask(socket: &Path, path: &str) -> Result<Value, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::refused(format!("the system gives no threads: {error}")))?;
    runtime.block_on(async {
        let asked = tokio::time::timeout(PATIENCE, exchange(socket, path)).await;
        asked.map_err(|_| Failure::unreadable(format!("{}: no answer within {PATIENCE:?}", socket.display())))?
    })
}

async fn exchange(socket: &Path, path: &str) -> Result<Value, Failure> {
    let name = socket.display();
    let broken = |error: hyper::Error| Failure::unreadable(format!("{name}: {error}"));
    let stream = io_http::unix::connect(socket).await.map_err(|error| not_there(socket, &error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Its errors are those of the request.
    tokio::spawn(connection);
    let request = Request::get(path).header(header::HOST, "localhost").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| Failure::refused(format!("{path}: {error}")))?;
    let answer = sender.send_request(request).await.map_err(broken)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MOST).collect().await;
    let body = body.map_err(|error| Failure::unreadable(format!("{name}: {error}")))?.to_bytes();
    if !status.is_success() {
        let words = harmless(String::from_utf8_lossy(&body).trim());
        return Err(Failure::refused(format!("edged answers {status}: {words}")));
    }
    parse(&body, &Limits::default()).map_err(|error| Failure::refused(format!("edged answers with no JSON: {error}")))
}

fn not_there(socket: &Path, error: &io::Error) -> Failure {
    let name = socket.display();
    let kind = error.kind();
    Failure::unreadable(if matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
        format!("edged does not run: nobody listens on {name}; start it, or name its socket with --socket")
    } else if kind == io::ErrorKind::PermissionDenied {
        format!("{name}: {error}; ask as the user that edged runs as, or as root")
    } else {
        format!("{name}: {error}")
    })
}
