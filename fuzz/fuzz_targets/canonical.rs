#![no_main]
//! Canonical JSON (RFC 8785 with our refusals): what is taken means one thing and is written one way.
use libfuzzer_sys::fuzz_target;
use machines::canonical;

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = canonical::parse(bytes, 64 * 1024) else { return };
    let written = canonical::to_bytes(&value).expect("what was taken can be written");
    let again = canonical::parse(&written, 256 * 1024).expect("what was written is taken");
    assert_eq!(again, value, "it means the same");
    assert_eq!(canonical::to_bytes(&again).expect("again"), written, "it is written the same way");
});
