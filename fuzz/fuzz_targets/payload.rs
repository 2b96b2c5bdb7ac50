#![no_main]
//! What signatures sign, in both of cosign's layouts.
use libfuzzer_sys::fuzz_target;
use machines::signature::{MAX_BUNDLE, MAX_PAYLOAD, bundle, simple};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(claim) = simple::read(bytes) {
        assert!(bytes.len() <= MAX_PAYLOAD);
        let again = simple::payload(&claim.digest, "localhost/app", &claim.annotations);
        assert_eq!(simple::read(&again).expect("what was read can be written and read"), claim);
    }
    if let Ok(signed) = bundle::read(bytes) {
        assert!(bytes.len() <= MAX_BUNDLE);
        // The signature is over an envelope, never over a payload of the other layout (FAULTS S10).
        assert!(signed.message.starts_with(b"DSSEv1 ") && simple::read(&signed.message).is_err());
    }
});
