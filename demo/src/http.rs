//! A small HTTP/1.1 client: one connection, kept alive, bodies with a length.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use machines::json::{self, Value};

/// Longer lines of a head are refused.
const MAX_LINE: u64 = 16 * 1024;
/// Larger bodies are refused.
const MAX_BODY: usize = 4 * 1024 * 1024;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Header names in lower case, with their values.
    pub headers: Vec<(String, String)>,
    /// The body as text.
    pub body: String,
}

impl Answer {
    /// The first value of a header, whose name is given in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as JSON; `null` when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        json::parse(self.body.as_bytes(), &json::Limits::default()).unwrap_or_default()
    }

    /// A member of the body that is a string; empty when there is none.
    #[must_use]
    pub fn text(&self, member: &str) -> String {
        self.json().get(member).and_then(Value::as_str).unwrap_or_default().to_owned()
    }
}

/// A connection.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects; every read and write may take `patience`.
    ///
    /// # Errors
    /// The address cannot be reached.
    pub fn connect(address: SocketAddr, patience: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, patience).with_context(|| format!("connect to {address}"))?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        stream.set_nodelay(true)?;
        Ok(Self { address, stream: BufReader::new(stream) })
    }

    /// `GET path`
    ///
    /// # Errors
    /// The connection broke, or the answer is no HTTP/1.1.
    pub fn get(&mut self, path: &str) -> Result<Answer> {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", self.address))
    }

    /// `POST path` with a JSON body.
    ///
    /// # Errors
    /// The connection broke, or the answer is no HTTP/1.1.
    pub fn post(&mut self, path: &str, body: &str) -> Result<Answer> {
        let (host, len) = (self.address, body.len());
        self.send(&format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len}\r\n\r\n{body}"
        ))
    }

    fn send(&mut self, request: &str) -> Result<Answer> {
        self.stream.get_mut().write_all(request.as_bytes()).context("sending the request")?;
        let status = self.line()?;
        let code = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        let Some(status) = code else { bail!("`{status}` is no HTTP/1.1 status line") };
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').with_context(|| format!("`{line}` is no header"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, headers, body: String::new() };
        let len: usize = answer.header("content-length").context("an answer without content-length")?.parse()?;
        ensure!(len <= MAX_BODY, "an answer of {len} bytes");
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body).context("reading the body")?;
        answer.body = String::from_utf8(body).context("a body that is not UTF-8")?;
        Ok(answer)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        (&mut self.stream).take(MAX_LINE).read_line(&mut line).context("reading the answer")?;
        ensure!(line.ends_with('\n'), "the connection was closed within an answer");
        Ok(line.trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answering(bytes: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(bytes).unwrap();
        });
        address
    }

    #[test]
    fn an_answer_is_read_by_its_length_and_a_cut_one_is_an_error() {
        let patience = Duration::from_secs(5);
        let whole = answering(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 19\r\nX-A: b\r\n\r\n{\"decision\":\"deny\"}");
        let answer = Client::connect(whole, patience).unwrap().post("/v1/tool", "{}").unwrap();
        assert_eq!((answer.status, answer.text("decision").as_str(), answer.header("x-a")), (403, "deny", Some("b")));
        let cut = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n{\"dec");
        assert!(Client::connect(cut, patience).unwrap().get("/health").is_err());
    }
}
