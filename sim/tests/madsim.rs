//! A second opinion on purity: under madsim's interception of clock and entropy, with two different seeds of its own, the
//! simulator's traces are the committed ones. Compiled with `--cfg madsim` only; `make sim-madsim` runs it.
#![cfg(madsim)]

use madsim::Config;
use madsim::runtime::Runtime;
use sim::world::World;
use sim::{swarm, sweep};

/// The trace hashes of the golden fixture, by seed.
fn committed() -> Vec<(u64, u64)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/fixtures/sim/traces.txt");
    let text = std::fs::read_to_string(path).expect("`make golden-update` writes the fixture");
    let pair = |line: &str| {
        let mut words = line.split(' ');
        let seed = words.nth(1)?.parse().ok()?;
        Some((seed, u64::from_str_radix(words.nth(3)?, 16).ok()?))
    };
    text.lines().map(|line| pair(line).expect("seed N events N trace HASH")).collect()
}

fn trace(world: &mut World, seed: u64) -> u64 {
    let outcome = sweep::run(world, &swarm::plan(seed));
    assert!(outcome.failure.is_none(), "seed {seed}: {:?}", outcome.failure);
    outcome.hash
}

#[test]
fn another_clock_and_other_entropy_change_no_trace() {
    let committed = committed();
    assert!(committed.len() >= 64);
    let outside: Vec<u64> = (1_000..1_200).map(|seed| trace(&mut World::default(), seed)).collect();
    for theirs in [1, 2] {
        Runtime::with_seed_and_config(theirs, Config::default()).block_on(async {
            let mut world = World::default();
            for (seed, hash) in &committed {
                assert_eq!(trace(&mut world, *seed), *hash, "seed {seed} under madsim's seed {theirs}");
            }
            let inside: Vec<u64> = (1_000..1_200).map(|seed| trace(&mut world, seed)).collect();
            assert_eq!(inside, outside, "under madsim's seed {theirs}");
        });
    }
}

/// The interception works at all: without it the test above would prove nothing.
#[test]
fn madsim_does_replace_clock_and_entropy() {
    // A thread of its own each time: the standard library draws a thread's keys once.
    let draw = |seed| {
        let run = move || {
            Runtime::with_seed_and_config(seed, Config::default()).block_on(async {
                let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 1u8);
                (std::time::SystemTime::now(), random)
            })
        };
        std::thread::spawn(run).join().expect("the run ends")
    };
    assert_eq!(draw(7), draw(7), "the same seed gives the same clock and entropy");
    assert_ne!(draw(7).0, draw(8).0, "another seed gives another clock");
    assert_ne!(draw(7).1, draw(8).1, "another seed gives other entropy");
}
