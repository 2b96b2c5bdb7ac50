use alloc::string::String;
use alloc::vec::Vec;
use std::string::ToString as _;

use crate::ids::Hash32;
use crate::precheck::chain::Chain;
use crate::precheck::files::{Evidence, Fingerprint, nothing};
use crate::precheck::verdict::{OF_FIRST, OF_LATER, Projection, State, Verdict};
use crate::time::Wall;

const OLD: Hash32 = Hash32([1; 32]);
const NEW: Hash32 = Hash32([2; 32]);
const ZERO: Hash32 = Hash32([0; 32]);

/// A chain of so many epochs behind the first; each host is a byte higher than the one before.
fn chain(epochs: u8) -> Chain {
    let at = Wall::from_micros(1_763_724_637_000_000);
    let mut chain = Chain::first(host(0), at);
    for epoch in 1..=epochs {
        chain = chain.with(host(epoch - 1), host(epoch), u64::from(epoch), at).unwrap();
    }
    chain
}

fn host(epoch: u8) -> Hash32 {
    Hash32([100 + epoch; 32])
}

fn evidence(chain: &Chain, epoch: u64) -> Option<Result<Evidence, String>> {
    let entries = [Some(chain.last()), chain.before(), chain.earlier()];
    let entry = entries.into_iter().flatten().find(|entry| entry.epoch == epoch).unwrap();
    Some(Ok(Evidence::of(entry, None)))
}

fn fingerprint(composite_hash: Hash32, boot_epoch: u64) -> Option<Result<Fingerprint, String>> {
    Some(Ok(Fingerprint { composite_hash, components: nothing(), boot_epoch, captured_at: Wall::default() }))
}

/// Everything in agreement after so many epochs.
fn settled(epochs: u8) -> State {
    let chain = chain(epochs);
    let n = u64::from(epochs);
    State {
        fingerprint: fingerprint(host(epochs), n),
        current: evidence(&chain, n),
        previous: n.checked_sub(1).and_then(|before| evidence(&chain, before)),
        chain: Some(Ok(chain)),
        ran_before: n > 0,
    }
}

fn nothing_there() -> State {
    State { chain: None, fingerprint: None, current: None, previous: None, ran_before: false }
}

fn stands(unwritten: &[Projection], replaced: Option<Hash32>) -> Verdict {
    Verdict::Stands { unwritten: unwritten.to_vec(), replaced }
}

fn refused(state: &State, host: Hash32) -> String {
    match state.judge(host) {
        Verdict::Refused(contradiction) => contradiction.to_string(),
        other => panic!("{other:?} for {state:?}"),
    }
}

#[test]
fn nothing_is_a_first_run_and_agreement_is_compared() {
    assert_eq!(nothing_there().judge(OLD), Verdict::FirstRun);
    for epochs in 0..4 {
        assert_eq!(settled(epochs).judge(host(epochs)), stands(&[], None));
        assert_eq!(settled(epochs).judge(NEW), stands(&[], Some(host(epochs))));
    }
}

#[test]
fn a_fingerprint_that_somebody_changed_hides_no_replacement() {
    // The story's way to say "replaced": zeros.
    let zeroed = State { fingerprint: fingerprint(ZERO, 1), ..settled(1) };
    assert_eq!(zeroed.judge(host(1)), stands(&[], Some(ZERO)));
    // The stored one is made to fit the new host: the chain still knows better.
    let forged = State { fingerprint: fingerprint(NEW, 1), ..settled(1) };
    assert_eq!(forged.judge(NEW), stands(&[], Some(host(1))));
}

#[test]
fn what_a_crash_leaves_behind_the_commit_is_finished() {
    // First run: chain, then fingerprint, then evidence.
    let first = State { chain: Some(Ok(chain(0))), ..nothing_there() };
    assert_eq!(first.judge(host(0)), stands(&OF_FIRST, None));
    assert_eq!(first.judge(NEW), stands(&OF_FIRST, Some(host(0))), "and then the host is compared");
    let first = State { fingerprint: fingerprint(host(0), 0), ..first };
    assert_eq!(first.judge(host(0)), stands(&[Projection::Current], None));
    // Later: chain, then previous evidence, current evidence, fingerprint.
    for epochs in 1..4 {
        let n = u64::from(epochs);
        let chain = chain(epochs);
        let committed = State { chain: Some(Ok(chain.clone())), ..settled(epochs - 1) };
        assert_eq!(committed.judge(host(epochs)), stands(&OF_LATER, None));
        let copied = State { previous: evidence(&chain, n - 1), ..committed };
        assert_eq!(copied.judge(host(epochs)), stands(&OF_LATER, None));
        let current = State { current: evidence(&chain, n), ..copied };
        assert_eq!(current.judge(host(epochs)), stands(&[Projection::Fingerprint], None));
        let zeroed = State { fingerprint: fingerprint(ZERO, n - 1), ..current };
        assert_eq!(zeroed.judge(host(epochs)), stands(&[Projection::Fingerprint], None));
    }
}

#[test]
fn b07_b08_b09_everything_else_is_refused() {
    let torn = || Some(Err(String::from("torn")));
    let cases: Vec<(&str, State, &str)> = Vec::from([
        (
            "evidence without a chain",
            State { current: evidence(&chain(0), 0), ..nothing_there() },
            "chain.jsonl is missing",
        ),
        ("older evidence without a chain", State { previous: torn(), ..nothing_there() }, "chain.jsonl is missing"),
        ("edged ran before", State { ran_before: true, ..nothing_there() }, "chain.jsonl is missing"),
        (
            "an epoch without a chain",
            State { fingerprint: fingerprint(OLD, 1), ..nothing_there() },
            "chain.jsonl is missing",
        ),
        (
            "another host without a chain",
            State { fingerprint: fingerprint(NEW, 0), ..nothing_there() },
            "names another host",
        ),
        (
            "a torn fingerprint without a chain",
            State { fingerprint: Some(Err("torn".into())), ..nothing_there() },
            "torn",
        ),
        (
            "a broken chain",
            State { chain: Some(Err("line 1 does not verify".into())), ..settled(1) },
            "line 1 does not verify",
        ),
        ("no fingerprint", State { fingerprint: None, ..settled(0) }, "os_fingerprint.json is missing"),
        ("no fingerprint, later", State { fingerprint: None, ..settled(2) }, "boot_epoch 2"),
        ("a torn fingerprint", State { fingerprint: Some(Err("torn".into())), ..settled(1) }, "torn"),
        ("the chain set back", State { chain: Some(Ok(chain(1))), ..settled(2) }, "boot_epoch 2"),
        ("the fingerprint set back", State { fingerprint: fingerprint(OLD, 1), ..settled(3) }, "below the 3"),
        ("fingerprint and evidence set back", State { chain: Some(Ok(chain(3))), ..settled(1) }, "below the 3"),
        ("no evidence", State { current: None, ..settled(1) }, "current/evidence.json"),
        ("torn evidence", State { current: torn(), ..settled(1) }, "torn"),
        (
            "older evidence",
            State { current: evidence(&chain(1), 0), ..settled(1) },
            "it names epoch 0, the chain wants epoch 1",
        ),
        ("no previous evidence", State { previous: None, ..settled(1) }, "previous/evidence.json"),
        (
            "previous evidence at the first epoch",
            State { previous: evidence(&chain(0), 0), ..settled(0) },
            "wants no file",
        ),
        ("previous evidence set back", State { previous: evidence(&chain(2), 0), ..settled(2) }, "wants epoch 1"),
        (
            "a finished projection before an unfinished one",
            State { chain: Some(Ok(chain(1))), current: evidence(&chain(1), 1), ..settled(0) },
            "previous/evidence.json",
        ),
    ]);
    for (name, state, part) in cases {
        let words = refused(&state, OLD);
        assert!(words.contains(part), "{name}: {words}");
    }
    let forged = Evidence { new_hash: NEW, ..Evidence::of(chain(1).last(), None) };
    assert!(refused(&State { current: Some(Ok(forged)), ..settled(1) }, OLD).contains("current/evidence.json"));
}
