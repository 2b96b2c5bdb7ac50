//! Errors of sockets, TLS and HTTP as the machines' faults.

use std::error::Error;
use std::io;

use machines::net::Fault;

use crate::answer::clean;

/// The operating system's words for an error: `network is unreachable`.
pub fn os_words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or_default();
    let mut chars = text.chars();
    let first = chars.next().map(|c| c.to_ascii_lowercase());
    clean(first.into_iter().chain(chars))
}

/// The fault that an error of a TLS handshake is.
pub fn of_handshake(error: &io::Error) -> Fault {
    if let Some(tls) = find::<rustls::Error>(error) {
        return Fault::Tls(clean(tls.to_string().chars()));
    }
    if error.kind() == io::ErrorKind::TimedOut {
        Fault::TimedOut
    } else if error.kind() == io::ErrorKind::UnexpectedEof {
        Fault::Broken("closed during the TLS handshake".into())
    } else {
        Fault::Broken(format!("during the TLS handshake: {}", os_words(error)))
    }
}

/// The fault that an error of an exchange is.
pub fn of_exchange(error: &hyper::Error) -> Fault {
    if error.is_parse_too_large() {
        return Fault::TooLong;
    }
    if error.is_user() {
        return Fault::Unsendable(clean(error.to_string().chars()));
    }
    // With TLS 1.3 a server refuses our certificate after the handshake, by an alert in place of an answer.
    if let Some(tls) = find::<rustls::Error>(error) {
        return Fault::Tls(clean(tls.to_string().chars()));
    }
    if error.is_parse() {
        return Fault::Broken(format!("the answer is no HTTP/1.1: {}", clean(error.to_string().chars())));
    }
    match find::<io::Error>(error) {
        Some(io) if io.kind() == io::ErrorKind::TimedOut => Fault::TimedOut,
        Some(io) => Fault::Broken(os_words(io)),
        None if error.is_incomplete_message() => Fault::Broken("closed before the whole answer came".into()),
        None => Fault::Broken(clean(error.to_string().chars())),
    }
}

/// The first error of this type in the chain of sources. An `io::Error` wraps another one without being its source.
fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_operating_system_come_without_its_number() {
        assert_eq!(os_words(&io::Error::from_raw_os_error(101)), "network is unreachable");
        assert_eq!(os_words(&io::Error::other("a\nb\u{1b}[31m")), "a b [31m");
    }

    #[test]
    fn an_error_of_tls_is_found_inside_an_io_error() {
        let inner = io::Error::other(rustls::Error::DecryptError);
        assert!(matches!(of_handshake(&inner), Fault::Tls(_)));
        assert!(matches!(of_handshake(&io::Error::from(io::ErrorKind::UnexpectedEof)), Fault::Broken(_)));
    }
}
