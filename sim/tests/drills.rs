//! The five drills of SPEC 13, by seed.

use machines::verify::Step as VerifyStep;
use sim::disk::Survival;
use sim::edge;
use sim::marks::Mark;
use sim::oracles_release::Verdict;
use sim::plan::{
    Call, Config, Crash, FileKind, Goal, Lies, Manner, Mask, Order, Part, Plan, Step, Tool, Wants, What, When,
};
use sim::releases::{COPIED, FINGERPRINT, OTHER_IMAGE, STRANGERS};
use sim::sweep::run;
use sim::world::World;

fn at(us: u64, what: What) -> Step {
    Step { when: When::At(us), what }
}

fn call(id: u32) -> What {
    What::Call(Call { id, tool: Tool::Echo, class: 0, pad: 0 })
}

fn must_hold(world: &mut World, plan: &Plan) {
    if let Some(failure) = run(world, plan).failure {
        panic!("{} at {} us: {}\n{plan}", failure.oracle.name(), failure.at_us, failure.words);
    }
}

/// No policy: every call is denied and recorded; a load ends that.
#[test]
fn drill_1_no_policy_denies_all_until_one_is_loaded() {
    let mut world = World::default();
    for seed in 0..200 {
        let config = Config { policy: None, heal_us: 900_000, ..Config::default() };
        let mut steps: Vec<Step> = (1..20u32).map(|id| at(u64::from(id) * 10_000, call(id))).collect();
        steps.push(at(300_000, What::Load { variant: 1, crash: None }));
        let plan = Plan { seed, config, mask: Mask::default(), steps };
        must_hold(&mut world, &plan);
        let early = world.answers().filter(|(id, ..)| *id < 20);
        for (id, status, allow) in early {
            assert_eq!((status, allow), (403, false), "seed {seed} call {id}");
        }
    }
}

/// The current bundle is damaged: the node falls back to the last known good one; with both damaged it denies all.
#[test]
fn drill_1_corrupt_policy_falls_back_and_then_denies_all() {
    let mut world = World::default();
    for seed in 0..300 {
        let config = Config { heal_us: 1_200_000, ..Config::default() };
        let mut steps = vec![
            at(10_000, What::Load { variant: 1, crash: None }),
            at(400_000, What::Rot { file: FileKind::Bundle, place: seed * 7_919, evicted: true }),
            at(450_000, What::Crash { kind: Crash::Process, down_us: 5_000 }),
            at(600_000, What::Rot { file: FileKind::Bundle, place: seed * 7_919 + 1, evicted: true }),
            at(650_000, What::Crash { kind: Crash::Power(Survival::Mix), down_us: 5_000 }),
        ];
        steps.extend((1..60u32).map(|id| at(u64::from(id) * 15_000, call(id))));
        steps.sort_by_key(|step| match step.when {
            When::At(us) => us,
            When::Effect { .. } | When::Seal { .. } => u64::MAX,
        });
        must_hold(&mut world, &Plan { seed, config, mask: Mask::default(), steps });
    }
    assert!(world.counts.of(Mark::LkgFallback) > 20, "{} fallbacks", world.counts.of(Mark::LkgFallback));
    assert!(world.counts.of(Mark::BothSlotsCorrupt) > 20, "{} times deny-all", world.counts.of(Mark::BothSlotsCorrupt));
}

/// `kill -9` under load, again and again: every answered call is in the log (the oracles hold it against the log at each
/// recovery and at the end).
#[test]
fn drill_2_every_answered_call_is_in_the_log_after_kills_under_load() {
    let mut world = World::default();
    let mut answered = 0;
    for seed in 0..150 {
        let config = Config { heal_us: 500_000, sync_us: 800, max_in_flight: 256, ..Config::default() };
        let client = |n: u32| {
            let call = Call { id: 1 + n * 100, tool: Tool::Echo, class: 0, pad: 0 };
            at(u64::from(n) * 50, What::Loop { call, n: 60, think_us: 300 })
        };
        let mut steps: Vec<Step> = (0..8).map(client).collect();
        for kill in 1..6u64 {
            let power = kill == 5;
            let kind = if power { Crash::Power(Survival::MixSubset) } else { Crash::Process };
            steps.push(at(kill * 70_000 + seed * 13, What::Crash { kind, down_us: 4_000 }));
        }
        must_hold(&mut world, &Plan { seed, config, mask: Mask::default(), steps });
        answered += world.answers().filter(|(_, status, _)| *status == 200).count();
    }
    assert!(answered > 10_000, "{answered} calls were answered");
    assert!(world.counts.of(Mark::OutcomeUnknown) > 50);
}

/// The collector is down while calls go on and some of their tools fail, with crashes of the node: nothing is lost, nothing is
/// removed, and when it is back errors go first (FAULTS N01). The oracles hold every batch and every cursor against the log.
#[test]
fn drill_3_n01_a_collector_outage_loses_nothing_and_errors_go_first_after_it() {
    let mut world = World::default();
    let seeds = 300;
    for seed in 0..seeds {
        let background = seed % 2 == 0;
        let config = Config {
            heal_us: 1_500_000,
            drain: background,
            batch: if seed % 3 == 0 { 2 } else { 16 },
            past: u32::try_from(seed % 7).unwrap(),
            ..Config::default()
        };
        let tools = [Tool::Echo, Tool::Echo, Tool::Fail];
        let call = |id: u32| What::Call(Call { id, tool: tools[id as usize % 3], class: 0, pad: 0 });
        let mut steps: Vec<Step> = (1..50u32).map(|id| at(u64::from(id) * 12_000, call(id))).collect();
        let manner =
            [Manner::Down, Manner::Hang, Manner::Unavailable, Manner::Late][usize::try_from(seed % 4).unwrap()];
        steps.push(at(0, What::Collector { manner, for_us: 700_000, retry_us: 0 }));
        steps.push(at(300_000 + seed * 17, What::Drain { batch: 8, crash: None }));
        if seed % 5 < 2 {
            let kind = if seed % 5 == 0 { Crash::Process } else { Crash::Power(Survival::Mix) };
            steps.push(at(450_000 + seed * 211, What::Crash { kind, down_us: 8_000 }));
        }
        steps.push(at(800_000, What::Drain { batch: 5, crash: None }));
        must_hold(&mut world, &Plan { seed, config, mask: Mask::default(), steps });
    }
    assert_eq!(world.counts.of(Mark::Drained), seeds, "every run ends with everything delivered");
    assert!(world.counts.of(Mark::CollectorBack) > 50, "{} times back", world.counts.of(Mark::CollectorBack));
    assert!(world.counts.of(Mark::ErrorsFirst) > 100, "{} times errors first", world.counts.of(Mark::ErrorsFirst));
    assert!(world.counts.of(Mark::SentAgain) > 20, "{} times sent again", world.counts.of(Mark::SentAgain));
}

/// A release is tampered with, on its way or before it was pushed: it is rejected at the step of SPEC 7 that the part belongs
/// to, what was in force stays in force, and the same release passes afterwards from a source that tells the truth (FAULTS
/// S01 to S03, S11 to S13, S17, S18).
#[test]
fn drill_4_a_tampered_release_is_rejected_at_its_step() {
    const SIGNATURE: Verdict = Verdict::Failed(VerifyStep::Signature);
    const DIGEST: Verdict = Verdict::Failed(VerifyStep::Digest);
    let tampered: [(&str, u8, &str, Part, Verdict); 15] = [
        ("manifest of the image", 2, "bytes", Part::Image, SIGNATURE),
        ("manifest of the image, cut short", 2, "short", Part::Image, SIGNATURE),
        ("layers of the image", 2, "bytes", Part::Layer, DIGEST),
        ("layers of the image, cut short", 2, "short", Part::Layer, DIGEST),
        ("layers of the image, without end", 2, "endless", Part::Layer, DIGEST),
        ("a layer is missing", 2, "missing", Part::Layer, DIGEST),
        ("signatures", 2, "bytes", Part::Signature, SIGNATURE),
        ("no signatures", 2, "missing", Part::Signature, SIGNATURE),
        ("a signature by another key", STRANGERS, "none", Part::Any, SIGNATURE),
        ("a signature of something else", COPIED, "none", Part::Any, SIGNATURE),
        ("lock of another image", OTHER_IMAGE, "none", Part::Any, DIGEST),
        ("lock with another fingerprint", FINGERPRINT, "none", Part::Any, Verdict::Failed(VerifyStep::Fingerprint)),
        ("bundle of another version", 20, "none", Part::Any, Verdict::Failed(VerifyStep::Compatibility)),
        ("lock of another bundle", 18, "none", Part::Any, DIGEST),
        ("source out of reach", 2, "unreachable", Part::Image, Verdict::Source),
    ];
    let mut world = World::default();
    let mut seeds = 0;
    for seed in 0..45 {
        for (what, release, lie, on, want) in
            [("nothing", 2, "none", Part::Any, Verdict::Passed(2))].iter().chain(&tampered)
        {
            let (release, lie, on, want) = (*release, *lie, *on, *want);
            let config = Config { heal_us: 600_000, verified: seed % 2 == 0, ..Config::default() };
            let fetch = |lies| {
                let order = Order { release, lies, on, goal: Goal::Activate(Wants::Anything) };
                What::Fetch { order, crash: None }
            };
            let mut steps: Vec<Step> = (1..12u32).map(|id| at(u64::from(id) * 45_000, call(id))).collect();
            steps.push(at(20_000, fetch(Lies::of(&[lie]))));
            steps.push(at(350_000, fetch(Lies::default())));
            must_hold(&mut world, &Plan { seed, config, mask: Mask::default(), steps });
            let [first, second] = world.verdicts() else { panic!("{what}: {:?}", world.verdicts()) };
            if *what == "nothing" && *first == SIGNATURE {
                // This seed's clock is thousands of years ahead, and by it everything is too old.
                break;
            }
            seeds += u32::from(*what == "nothing");
            assert_eq!(*first, want, "seed {seed}: {what}");
            let again = if release == 2 { Verdict::Passed(2) } else { want };
            assert_eq!(*second, again, "seed {seed}: {what}, from an honest source");
        }
    }
    for mark in [Mark::RejectedStep1, Mark::RejectedStep2, Mark::RejectedStep3, Mark::RejectedStep4] {
        assert!(world.counts.of(mark) >= 30, "{mark:?}: {}", world.counts.of(mark));
    }
    assert!(seeds >= 30, "{seeds} seeds");
}

/// Lock and bundle change on the way, or are those of other releases: nothing of it passes, whichever part arrives first.
#[test]
fn drill_4_changed_or_mixed_attachments_never_pass() {
    let mut world = World::default();
    let mut ends = std::collections::BTreeMap::new();
    for seed in 0..150 {
        let lies = [(Part::Lock, "bytes"), (Part::Policy, "bytes"), (Part::Lock, "short"), (Part::Policy, "short")];
        for (on, lie) in lies.into_iter().chain([(Part::Any, "mixed"), (Part::Any, "swapped")]) {
            let order = Order { release: 2, lies: Lies::of(&[lie]), on, goal: Goal::Activate(Wants::Anything) };
            let steps = vec![at(10_000, What::Fetch { order, crash: None }), at(200_000, call(1))];
            let config = Config { heal_us: 300_000, ..Config::default() };
            must_hold(&mut world, &Plan { seed, config, mask: Mask::default(), steps });
            let [verdict @ Verdict::Failed(_)] = world.verdicts() else {
                panic!("{on:?} {lie}: {:?}", world.verdicts())
            };
            *ends.entry(format!("{on:?} {lie} {verdict:?}")).or_insert(0) += 1;
        }
    }
    println!("{ends:?}");
    assert!(world.counts.of(Mark::ReleaseActivated) == 0, "{ends:?}");
    assert!(world.counts.of(Mark::RejectedStep2) >= 100, "{ends:?}");
    assert!(world.counts.of(Mark::RejectedStep1) + world.counts.of(Mark::RejectedStep2) == 900, "{ends:?}");
}

fn edge_plan(seed: u64, steps: &str) -> edge::plan::Plan {
    let head = format!("{}\nseed {seed}\nconfig relay=0 tls=1 pinned=0 named=1 allow=1\n", edge::plan::HEAD);
    edge::plan::Plan::parse(&format!("{head}{steps}")).unwrap()
}

/// The operating system is replaced and the manifest's key is gone: exit 5, nothing is written, and with the key the same node is
/// rebuilt; the epoch advances once (the oracles hold every byte and every line against what was signed).
#[test]
fn drill_5_b02_a_missing_key_is_exit_5_and_the_node_is_rebuilt_when_it_is_back() {
    let mut world = edge::world::World::default();
    for seed in 0..60u64 {
        let host = 1 + seed % 5;
        let zeros = if seed % 2 == 0 { format!("boot host={host}") } else { "edit print-zero:0".to_owned() };
        let steps = format!("precheck\n{zeros}\nedit key-gone:0\nprecheck\nprecheck\nedit key:0\nprecheck\nprecheck\n");
        let outcome = edge::sweep::run(&mut world, &edge_plan(seed, &steps));
        assert_eq!(outcome.failure, None, "seed {seed}");
        assert_eq!(outcome.exits, [0, 5, 5, 0, 0].map(Some), "seed {seed}");
        let missing = "precheck: manifest verify key missing on reconstruction path";
        assert_eq!(outcome.notes[1].last(), Some(&missing), "{:?}", outcome.notes);
        let told: Vec<_> = outcome.notes[3].iter().filter(|line| line.starts_with("edge.os.")).collect();
        let want = ["edge.os.update_detected", "edge.os.reconstruction_started", "edge.os.reconstruction_completed"];
        assert!(want.iter().all(|line| told.contains(&line)), "{told:?}");
    }
    assert_eq!(world.counts.of(edge::marks::Mark::KeyMissing), 120);
}

/// The power is cut at every operation of a reconstruction: the next precheck finishes it.
#[test]
fn drill_5_b06_a_power_cut_in_mid_reconstruction_is_finished_by_the_next_precheck() {
    let mut world = edge::world::World::default();
    let mut cut = 0;
    for at in 0..140u64 {
        for survives in ["all", "none", "mix-5", "mix-77"] {
            let half = if at % 2 == 0 { "h" } else { "" };
            let steps = format!("precheck\nboot host=1\nprecheck power={at}{half}/{survives}\nprecheck\nprecheck\n");
            let outcome = edge::sweep::run(&mut world, &edge_plan(at, &steps));
            assert_eq!(outcome.failure, None, "cut at {at}, {survives} survives");
            assert_eq!(outcome.exits[2..], [Some(0), Some(0)], "cut at {at}, {survives} survives");
            cut += usize::from(outcome.exits[1].is_none());
        }
    }
    assert!(cut > 250, "{cut} reconstructions were cut");
    assert!(world.counts.of(edge::marks::Mark::Finished) > 20);
}
