//! Three of the five drills of SPEC 13, by seed. The others belong to parts that are simulated elsewhere.

use sim::disk::Survival;
use sim::marks::Mark;
use sim::plan::{Call, Config, Crash, FileKind, Manner, Mask, Plan, Step, Tool, What, When};
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
