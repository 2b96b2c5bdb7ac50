use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use machines::net::{Answer, Body};
use machines::time::Span;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::testing::{answer, decisions, export, peer, request};

const EMPTY: &str = "content-type: application/x-protobuf\r\n";

fn config(address: impl std::fmt::Display) -> ExporterConfig {
    ExporterConfig::new(format!("http://{address}"))
}

fn exporter(address: impl std::fmt::Display) -> Exporter {
    Exporter::new(&config(address)).unwrap()
}

/// What comes of one export of three records to a server that does this with its connection.
async fn against<F, R>(within: Span, serve: F) -> Got
where
    F: Fn(TcpStream, usize) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let address = peer(serve).await;
    let operation = Export { timeout: within, ..export(decisions(3)) };
    exporter(address).export(&operation).await
}

fn fast() -> Span {
    Span::from_millis(200)
}

fn full() -> Got {
    Got::Answered(Answer { status: 200, retry_after: None, body: Body::Full { words: String::new() } })
}

#[tokio::test]
async fn a_batch_is_sent_and_its_answer_read() {
    for (encoding, gzip) in [(Encoding::Protobuf, true), (Encoding::Protobuf, false), (Encoding::Json, true)] {
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let address = peer(move |mut stream, _| {
            let tell = tell.clone();
            async move {
                while let Some(got) = request(&mut stream).await {
                    tell.send(got).unwrap();
                    stream.write_all(&answer("200 OK", EMPTY, "")).await.unwrap();
                }
            }
        })
        .await;
        let mut config = config(address);
        config.endpoint.push_str("/prefix/");
        (config.encoding, config.gzip) = (encoding, gzip);
        config.headers.push(parse_header("X-Token = a=b").unwrap());
        let exporter = Exporter::new(&config).unwrap();
        // Large enough to be encoded on a worker.
        let operation = Export { from: 1, ..export(decisions(512)) };
        assert_eq!(exporter.export(&operation).await, full());
        let (head, mut body) = told.recv().await.unwrap();
        assert!(head.starts_with("post /prefix/v1/logs http/1.1\r\n"), "{head}");
        for line in
            [format!("host: {address}"), "x-token: a=b".into(), format!("content-type: {}", encoding.content_type())]
        {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{head}");
        }
        assert!(!head.contains("accept-encoding"), "{head}");
        assert_eq!(head.contains("\r\ncontent-encoding: gzip\r\n"), gzip);
        if gzip {
            let packed = std::mem::take(&mut body);
            flate2::read::GzDecoder::new(&*packed).read_to_end(&mut body).unwrap();
        }
        let read: ExportLogsServiceRequest = match encoding {
            Encoding::Protobuf => ExportLogsServiceRequest::decode(&*body).unwrap(),
            Encoding::Json => serde_json::from_slice(&body).unwrap(),
        };
        assert_eq!(read.resource_logs[0].scope_logs[0].log_records.len(), 511);
    }
}

#[tokio::test]
async fn a_connection_is_kept_and_replaced_when_its_peer_closed_it() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    let address = peer(move |mut stream, number| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            // The first connection is closed behind its second answer, with no word of it in the answer.
            for _ in 0..if number == 0 { 2 } else { usize::MAX } {
                if request(&mut stream).await.is_none() {
                    return;
                }
                stream.write_all(&answer("200 OK", EMPTY, "")).await.unwrap();
            }
        }
    })
    .await;
    let exporter = exporter(address);
    for (sent, want) in [(1, 1), (2, 1), (3, 2), (4, 2)] {
        assert_eq!(exporter.export(&export(decisions(3))).await, full(), "{sent}");
        assert_eq!(connections.load(Ordering::SeqCst), want, "after {sent}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn n01_a_collector_that_is_down_refuses() {
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    assert_eq!(exporter(address).export(&export(decisions(1))).await, Got::Failed(Fault::Refused));
    // Every address of a name is tried.
    let by_name = format!("localhost:{}", address.port());
    assert_eq!(exporter(by_name).export(&export(decisions(1))).await, Got::Failed(Fault::Refused));
}

#[tokio::test]
async fn n01_a_name_that_does_not_exist_is_unresolvable() {
    let operation = Export { timeout: Span::from_secs(30), ..export(decisions(1)) };
    let got = exporter("no-such-host.invalid:4318").export(&operation).await;
    assert_eq!(got, Got::Failed(Fault::Unresolvable("no-such-host.invalid".into())));
}

#[tokio::test]
async fn n02_a_collector_that_never_answers_runs_out_of_time() {
    let got = against(fast(), |mut stream, _| async move {
        request(&mut stream).await;
        std::future::pending().await
    })
    .await;
    assert_eq!(got, Got::Failed(Fault::TimedOut));
}

#[tokio::test]
async fn n02_a_collector_that_takes_nothing_runs_out_of_time() {
    let got = against(fast(), |stream, _| async move {
        let _held = stream;
        std::future::pending().await
    })
    .await;
    assert_eq!(got, Got::Failed(Fault::TimedOut));
}

#[tokio::test]
async fn n02_a_timed_out_connection_is_closed() {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let got = against(fast(), move |mut stream, _| {
        let tell = tell.clone();
        async move {
            request(&mut stream).await;
            let _ = tell.send(stream.read(&mut [0; 1]).await.unwrap_or(0));
        }
    })
    .await;
    assert_eq!(got, Got::Failed(Fault::TimedOut));
    assert_eq!(told.recv().await, Some(0));
}

#[tokio::test]
async fn n03_a_lost_answer_is_a_broken_connection() {
    let got = against(Span::from_secs(5), |mut stream, _| async move {
        request(&mut stream).await;
    })
    .await;
    assert_eq!(got, Got::Failed(Fault::Broken("closed before the whole answer came".into())));
    // So is an answer of which only the head came.
    let got = against(Span::from_secs(5), |mut stream, _| async move {
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await.unwrap();
    })
    .await;
    assert!(matches!(got, Got::Failed(Fault::Broken(_))), "{got:?}");
}

#[tokio::test]
async fn n03_a_reset_connection_is_broken() {
    let got = against(Span::from_secs(5), |mut stream, _| async move {
        // Closing with unread bytes resets.
        let _ = stream.read_u8().await;
    })
    .await;
    assert!(matches!(got, Got::Failed(Fault::Broken(_))), "{got:?}");
}

#[tokio::test]
async fn n04_a_partial_success_is_reported_with_its_count() {
    let got = against(Span::from_secs(5), |mut stream, _| async move {
        request(&mut stream).await;
        let body = r#"{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"too old"}}"#;
        stream.write_all(&answer("200 OK", "content-type: application/json\r\n", body)).await.unwrap();
    })
    .await;
    let body = Body::Partial { rejected: 2, words: "too old".into() };
    assert_eq!(got, Got::Answered(Answer { status: 200, retry_after: None, body }));
}

#[tokio::test]
async fn n05_status_and_retry_after_are_reported() {
    let got = against(Span::from_secs(5), |mut stream, _| async move {
        request(&mut stream).await;
        stream.write_all(&answer("429 Slow", "retry-after: 7\r\n", "slow down")).await.unwrap();
    })
    .await;
    let body = Body::Other { words: "slow down".into() };
    assert_eq!(got, Got::Answered(Answer { status: 429, retry_after: Some(Span::from_secs(7)), body }));
}

#[tokio::test]
async fn n07_a_redirect_is_reported_and_nothing_is_sent_after_it() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let elsewhere = peer(move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        async {}
    })
    .await;
    for status in ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"] {
        let got = against(Span::from_secs(5), move |mut stream, _| async move {
            request(&mut stream).await;
            let to = format!("location: http://{elsewhere}/v1/logs\r\n{EMPTY}");
            stream.write_all(&answer(status, &to, "")).await.unwrap();
        })
        .await;
        let words = format!("a redirect that is not followed, to http://{elsewhere}/v1/logs");
        let Got::Answered(answer) = got else { panic!("{got:?}") };
        assert_eq!((answer.status, answer.body), (status[..3].parse().unwrap(), Body::Other { words }));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn n08_an_endless_answer_is_cut_at_its_cap() {
    for framing in ["", "transfer-encoding: chunked\r\n", "content-length: 1000000000000\r\n"] {
        let got = against(Span::from_secs(20), move |mut stream, _| async move {
            request(&mut stream).await;
            let head = format!("HTTP/1.1 200 OK\r\n{EMPTY}{framing}\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
            while stream.write_all(chunk.as_bytes()).await.is_ok() {}
        })
        .await;
        assert_eq!(got, Got::Failed(Fault::TooLong), "{framing}");
    }
}

#[tokio::test]
async fn n08_an_endless_head_is_cut_at_its_cap() {
    for line in ["x-more: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", "x"] {
        let got = against(Span::from_secs(20), move |mut stream, _| async move {
            request(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
            while stream.write_all(line.repeat(64).as_bytes()).await.is_ok() {}
        })
        .await;
        assert_eq!(got, Got::Failed(Fault::TooLong), "{line}");
    }
}

#[tokio::test]
async fn n08_a_slow_answer_is_cut_at_its_time() {
    let got = against(Span::from_millis(300), |mut stream, _| async move {
        request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await.unwrap();
        // Each byte comes in time, the whole never does.
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(got, Got::Failed(Fault::TimedOut));
}

#[tokio::test]
async fn n08_an_answer_to_half_a_request_is_read() {
    // A receiver that refuses a body by its length takes none of it, and this one is more than sockets hold.
    let address = peer(|mut stream, _| async move {
        while stream.read_u8().await.is_ok_and(|byte| byte != b'\n') {}
        stream.write_all(&answer("413 Too Large", "connection: close\r\n", "too large")).await.unwrap();
        std::future::pending().await
    })
    .await;
    let exporter = Exporter::new(&ExporterConfig { gzip: false, ..config(address) }).unwrap();
    let operation = export(decisions(40_000));
    assert!(operation.batch.size() > 20_000_000);
    for _ in 0..2 {
        let got = exporter.export(&operation).await;
        let Got::Answered(answer) = got else { panic!("{got:?}") };
        assert_eq!((answer.status, answer.body), (413, Body::Other { words: "too large".into() }));
    }
}

#[tokio::test]
async fn n09_a_bomb_is_never_unpacked() {
    let got = against(Span::from_secs(5), |mut stream, _| async move {
        request(&mut stream).await;
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        packer.write_all(&vec![0; 8 << 20]).unwrap();
        let bomb = packer.finish().unwrap();
        let head =
            format!("HTTP/1.1 200 OK\r\n{EMPTY}content-encoding: gzip\r\ncontent-length: {}\r\n\r\n", bomb.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&bomb).await.unwrap();
    })
    .await;
    let words = "the answer is encoded as gzip, which was not asked for".into();
    assert_eq!(got, Got::Answered(Answer { status: 200, retry_after: None, body: Body::Other { words } }));
}

#[tokio::test]
async fn n14_an_answer_that_is_no_http_is_broken() {
    for text in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    ] {
        let got = against(Span::from_secs(5), move |mut stream, _| async move {
            request(&mut stream).await;
            stream.write_all(text.as_bytes()).await.unwrap();
        })
        .await;
        assert!(matches!(got, Got::Failed(Fault::Broken(_))), "{text}: {got:?}");
    }
}

#[tokio::test]
async fn a_range_outside_the_batch_cannot_be_sent() {
    let operation = Export { to: 4, ..export(decisions(3)) };
    let got = exporter("127.0.0.1:9").export(&operation).await;
    assert!(matches!(got, Got::Failed(Fault::Unsendable(_))), "{got:?}");
}

#[test]
fn what_cannot_work_is_refused_before_anything_is_sent() {
    let refused = |change: &dyn Fn(&mut ExporterConfig)| {
        let mut config = config("127.0.0.1:4318");
        change(&mut config);
        Exporter::new(&config).unwrap_err().to_string()
    };
    let header = |name: &str, value: &str| refused(&|c| c.headers.push((name.into(), value.into())));
    assert!(refused(&|c| c.endpoint = "collector".into()).contains("must begin with http:// or https://"));
    assert!(refused(&|c| c.endpoint = "https://a b/".into()).contains("is not a URL"));
    assert!(
        refused(&|c| c.endpoint = "https://a..b:1".into()).contains("a name or address that a certificate can carry")
    );
    assert!(refused(&|c| c.cert = Some("c.pem".into())).contains("http, which uses no certificate"));
    assert!(refused(&|c| c.ca = Some("c.pem".into())).contains("http, which uses no certificate"));
    assert!(header("bad name", "x").contains("not a header's name"));
    assert!(header("x-token", "a\r\nb: c").contains("x-token"));
    assert!(!header("x-token", "secret\n").contains("secret"));
    for name in ["Host", "content-length", "Transfer-Encoding", "Connection", "Content-Type", "Accept-Encoding"] {
        assert!(header(name, "x").contains("set by the exporter"), "{name}");
    }
    assert!(!parse_header("Bearer-without-equals").unwrap_err().to_string().contains("without-equals"));
    let shown = format!("{:?}", {
        let mut c = config("h");
        c.headers.push(("authorization".into(), "secret".into()));
        c
    });
    assert!(shown.contains("authorization") && !shown.contains("secret"));
}
