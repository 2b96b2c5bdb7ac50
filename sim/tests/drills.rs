//! Two of the five drills of SPEC 13, by seed. The others belong to parts that are simulated elsewhere.

use sim::disk::Survival;
use sim::marks::Mark;
use sim::plan::{Call, Config, Crash, FileKind, Mask, Plan, Step, Tool, What, When};
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
