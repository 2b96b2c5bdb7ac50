//! Answers of a receiver, in the encoding of the request.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use prost::Message;
use serde_json::json;

use crate::answer::Status;
use crate::exporter::Encoding;
use crate::serve::Answer;

/// 200: all was taken.
pub fn full(encoding: Encoding) -> Answer {
    let body = match encoding {
        Encoding::Protobuf => Vec::new(),
        Encoding::Json => b"{}".to_vec(),
    };
    answer(StatusCode::OK, encoding, body)
}

/// 200: all but so many were taken.
pub fn partial(encoding: Encoding, rejected: u64, words: &str) -> Answer {
    let body = match encoding {
        Encoding::Protobuf => {
            let partial = ExportLogsPartialSuccess {
                rejected_log_records: i64::try_from(rejected).unwrap_or(i64::MAX),
                error_message: words.to_owned(),
            };
            ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec()
        }
        Encoding::Json => {
            let partial = json!({ "rejectedLogRecords": rejected.to_string(), "errorMessage": words });
            json!({ "partialSuccess": partial }).to_string().into_bytes()
        }
    };
    answer(StatusCode::OK, encoding, body)
}

/// Another status, with words in a `google.rpc.Status`.
pub fn refused(status: StatusCode, encoding: Encoding, words: &str) -> Answer {
    let body = match encoding {
        Encoding::Protobuf => Status { code: 0, message: words.to_owned() }.encode_to_vec(),
        Encoding::Json => json!({ "message": words }).to_string().into_bytes(),
    };
    answer(status, encoding, body)
}

/// Another status, which says to come again.
pub fn later(status: StatusCode, encoding: Encoding, words: &str, seconds: u64) -> Answer {
    let mut answer = refused(status, encoding, words);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    answer
}

fn answer(status: StatusCode, encoding: Encoding, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(encoding.content_type()));
    answer
}
