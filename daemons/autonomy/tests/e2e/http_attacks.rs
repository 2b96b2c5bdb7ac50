//! Requests that mean harm (FAULTS N14, N16, N17).

use std::time::Instant;

use crate::harness::{ECHO, Node};

const HEAD: &str = "POST /v1/tool HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";

#[test]
fn n14_a_request_whose_length_could_be_read_in_two_ways_is_refused_and_the_connection_closed() {
    let node = Node::demo();
    let runtime = node.start(&[]);
    let hidden = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let bodies = [
        format!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Content-Length: 5\r\nContent-Length: 6\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Content-Length: +5\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Content-Length: 5, 5\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Content-Length: 0x5\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\nzz\r\n{hidden}"),
        format!("Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"),
        format!("X: a\r\n b\r\nContent-Length: 0\r\n\r\n{hidden}"),
    ];
    for body in bodies {
        let mut connection = runtime.connect();
        connection.send(format!("{HEAD}{body}").as_bytes()).unwrap();
        let answer = connection.receive().unwrap_or_else(|| panic!("no answer to {body}"));
        assert_eq!(answer.status, 400, "{body}\n{answer:?}");
        assert!(connection.receive().is_none(), "a second request was read out of {body}");
    }
    assert!(node.frames().is_empty());
}

#[test]
fn n14_bare_line_feeds_and_nul_bytes_make_no_request() {
    let runtime = Node::demo().start(&[]);
    for text in [
        "GET /health HTTP/1.1\r\nHost: local\0host\r\n\r\n",
        "GET /hea lth HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "\0\0\0\0",
    ] {
        let mut connection = runtime.connect();
        connection.send(text.as_bytes()).unwrap();
        let answer = connection.receive();
        assert!(answer.as_ref().is_none_or(|answer| answer.status == 400), "{text:?}: {answer:?}");
        assert!(connection.is_closed());
    }
}

#[test]
fn n16_a_slow_caller_is_cut_and_others_do_not_wait() {
    let runtime = Node::demo().start(&[]);
    // A body that does not come.
    let mut slow = runtime.connect();
    slow.send(format!("{HEAD}Content-Length: {}\r\n\r\n{{", ECHO.len()).as_bytes()).unwrap();
    let mut others: Vec<_> = (0..50).map(|_| runtime.connect()).collect();
    for other in &mut others {
        other.send(b"GET /health HTT").unwrap();
    }
    let started = Instant::now();
    assert_eq!(runtime.call(ECHO).status, 200);
    assert!(started.elapsed().as_secs() < 5);
    let answer = slow.receive().unwrap();
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.reason().contains("in time"), "{answer:?}");
    assert!(slow.is_closed());
}

#[test]
fn n17_headers_and_bodies_past_their_limits_are_refused_before_they_are_kept() {
    let runtime = Node::demo().start(&[]);
    let long = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(64 * 1024));
    let many = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: a\r\n".repeat(500));
    for text in [long, many] {
        let mut connection = runtime.connect();
        // It may be cut off before all of it is taken.
        let _ = connection.send(text.as_bytes());
        if let Some(answer) = connection.receive() {
            assert_eq!(answer.status, 431, "{answer:?}");
        }
        assert!(connection.is_closed());
    }
    let mut connection = runtime.connect();
    connection.send(format!("{HEAD}Content-Length: 99999999999\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(connection.receive().unwrap().status, 413);
    assert!(connection.is_closed());
    // The longest body that is taken.
    let filler = "a".repeat(1024 * 1024 - r#"{"kind":"tool.echo","params":{"message":""}}"#.len());
    let answer = runtime.call(&format!(r#"{{"kind":"tool.echo","params":{{"message":"{filler}"}}}}"#));
    assert_eq!(answer.status, 200);
    let answer = runtime.call(&format!(r#"{{"kind":"tool.echo","params":{{"message":"{filler}a"}}}}"#));
    assert_eq!(answer.status, 413);
}
