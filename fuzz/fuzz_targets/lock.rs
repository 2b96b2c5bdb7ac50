#![no_main]
//! Locks: one that is read has one meaning, and its fingerprint does not depend on spelling.
use libfuzzer_sys::fuzz_target;
use machines::lock::Lock;

fuzz_target!(|bytes: &[u8]| {
    let Ok(lock) = Lock::read(bytes) else { return };
    let again = Lock::read(&lock.to_bytes()).expect("what was read can be written and read");
    assert_eq!(again, lock);
    assert_eq!(again.computed(), lock.computed());
    assert_eq!(again.matches(), lock.matches());
});
