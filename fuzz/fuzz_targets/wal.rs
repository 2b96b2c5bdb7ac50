#![no_main]
//! Frames of the log, and the small files beside it.
use libfuzzer_sys::fuzz_target;
use machines::wal::frame::Frame;

fuzz_target!(|bytes: &[u8]| {
    let _ = machines::wal::files::Base::parse(bytes);
    let _ = machines::wal::files::Positions::parse(bytes);
    let _ = machines::activation::Activation::parse(bytes);
    let _ = machines::activation::Record::parse(bytes);
    if let Some(frame) = Frame::parse(bytes) {
        assert!(frame.seq.get() > 0);
    }
});
