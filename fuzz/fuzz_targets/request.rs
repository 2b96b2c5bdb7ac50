#![no_main]
//! Tool calls, as anybody may send them.
use libfuzzer_sys::fuzz_target;
use machines::interceptor::Request;

fuzz_target!(|bytes: &[u8]| {
    let (body, trace) = match bytes.split_first_chunk::<55>() {
        Some((trace, body)) => (body, core::str::from_utf8(trace).ok()),
        None => (bytes, None),
    };
    let _ = Request::parse(body, trace);
});
